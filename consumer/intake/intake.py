"""What enters the service: which messages may be read, which of them are taken, and what is in flight.

One object stands between the loop and the five parts that decide this: the ledger (what is in flight), the start
offsets (where a partition begins), backpressure (the budgets), the breaker (whether records pass at all) and the
suspects that run apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import structlog
from confluent_kafka import Message

from consumer.clock import Clock, monotonic
from consumer.intake.backpressure import Backpressure
from consumer.intake.breaker import Breaker
from consumer.intake.isolation import Isolation
from consumer.intake.start_offsets import StartOffsets
from consumer.kafka.headers import headers_of
from consumer.ledger import Ledger
from consumer.types import Finished, Headers, InFlight, Level, Limit, Partition, RawMessage, Refused, Source

log = structlog.get_logger(__name__)


class QueuedTokens(Protocol):
    """What waits for a batch."""

    def tokens_by_partition(self) -> Mapping[Partition, int]:
        """Protein tokens of each partition that has any."""

    @property
    def tokens_per_byte(self) -> float:
        """Of the value of a message that is not prepared yet, as far as is known."""


class Intake:
    """All methods run on the thread that owns the consumer; the properties may be read from any thread.

    Args:
        dropped: called after messages in flight were dropped, with their partitions: what delivery and the pipeline
            still hold of these is void.
    """

    def __init__(
        self,
        ledger: Ledger,
        start_offsets: StartOffsets,
        backpressure: Backpressure,
        breaker: Breaker,
        isolation: Isolation,
        dropped: Callable[[Sequence[Partition]], None],
        clock: Clock = monotonic,
    ) -> None:
        self._ledger, self._start_offsets = ledger, start_offsets
        self._backpressure, self._breaker, self._isolation = backpressure, breaker, isolation
        self._dropped, self._clock = dropped, clock
        self._room, self._tokens_per_byte = InFlight(0, 0, 0), 0.0

    @property
    def records(self) -> int:
        """Messages read and not yet answered."""
        return self._ledger.records

    @property
    def bytes(self) -> int:
        """Bytes of the messages read and not yet answered."""
        return self._ledger.bytes

    @property
    def assigned(self) -> list[Partition]:
        return self._ledger.assigned

    @property
    def waiting(self) -> int:
        """Assigned partitions that are not read because their committed offset is not known."""
        return self._start_offsets.waiting

    @property
    def is_broken(self) -> bool:
        """True while nothing is read because most of the latest records failed."""
        return self._breaker.is_open

    # Reading

    def level(self, queued: QueuedTokens) -> Level:
        """Whether more may be read now, of partitions that are not `blocked`; `queued` waits for a batch."""
        if self._breaker.room() == 0 or not self._isolation.is_empty:
            return "pause"
        self._room, self._tokens_per_byte = InFlight(0, 0, 0), queued.tokens_per_byte
        tokens = queued.tokens_by_partition()
        if self._backpressure.is_clear(InFlight(self.records, self.bytes, sum(tokens.values()))):
            level: Level = "open"
        else:
            level = self._backpressure.level(
                {
                    partition: InFlight(records, size, tokens.get(partition, 0))
                    for partition, (records, size) in self._ledger.held().items()
                }
            )
        self._room = self._backpressure.room
        return level

    def reads_on(self, queued: QueuedTokens) -> bool:
        """Whether another message may be read in the same turn, as `level` would say.

        That looks at every partition, so it is asked again only when what was accepted since may change its answer.
        """
        if min(self._room) > 0 and not self._breaker.is_open and self._isolation.is_empty:
            return True
        return self.level(queued) == "open"

    @property
    def blocked(self) -> frozenset[Partition]:
        """Partitions that are not read while others are: they hold their share of a budget, or had it of a trial."""
        if not self._breaker.is_open:
            return self._backpressure.blocked
        assigned = self.assigned
        on_trial = (each for each in assigned if self._breaker.has_enough_of(each, len(assigned)))
        return self._backpressure.blocked.union(on_trial)

    @property
    def limit(self) -> Limit | None:
        """What keeps the service from reading, None while it may."""
        if self._breaker.is_open:
            return "breaker"
        return self._backpressure.limit if self._isolation.is_empty else "suspect"

    def accept(self, message: Message) -> RawMessage | None:
        """Take a message that was read; None if it is not to be processed now: it, or one before it, comes again."""
        partition = Partition(str(message.topic()), int(message.partition() or 0))
        offset = int(message.offset() or 0)
        epoch = self._ledger.epoch(partition)
        if epoch is None:  # read just before it was revoked; the next owner reads it again
            return None
        if not self._start_offsets.accepts(partition, offset):
            return None
        if self._ledger.went_back(partition, offset):
            log.warning("log_truncated", partition=str(partition), to=offset)
            epoch = self._ledger.cut(partition, offset)
            self._breaker.forget([partition])
            self._dropped([partition])
        kind, timestamp = message.timestamp()
        raw = RawMessage(
            source=Source(partition, epoch, offset),
            key=_as_bytes(message.key()),
            value=_as_bytes(message.value()),
            headers=_headers(message),
            timestamp_ms=timestamp if kind and timestamp >= 0 else None,
            received_at=self._clock(),
        )
        self._ledger.receive(raw)
        self._breaker.admitted(raw.source)
        records, size, tokens = self._room
        read = len(raw.value or b"")
        self._room = InFlight(records - 1, size - raw.size, tokens - math.ceil(read * self._tokens_per_byte))
        return raw

    def sets_apart(self, message: RawMessage) -> bool:
        """True if a message that was accepted is a suspect, and is kept until `next_suspect` gives it out."""
        return self._isolation.takes(message)

    def next_suspect(self) -> RawMessage | None:
        """The suspect to start now, when nothing else is in flight; each is given once."""
        return self._isolation.next(self._ledger)

    def turn(self) -> frozenset[Partition]:
        """Once a turn of the loop; returns partitions that were paused for their start offset and may be read now."""
        return frozenset(self._start_offsets.turn())

    def settle(self) -> bool:
        """Find out whether input was deleted before it was read, if there is a doubt; False while that is not known.

        Raises:
            ServiceError: it was, and the service is to stop for that.
        """
        return self._start_offsets.settle()

    def readable(self) -> frozenset[Partition]:
        """The assigned partitions whose start offset is known."""
        return frozenset(
            partition for partition in self.assigned if not self._start_offsets.is_waiting(partition)
        )

    # Results

    def finish(self, finished: Finished) -> bool:
        """Enter an outcome; False if it is stale: its partition went away, or its log was cut."""
        if self._ledger.finish(finished) is None:
            return False
        outcome = finished.outcome
        self._breaker.outcome(finished.source, outcome.reason if isinstance(outcome, Refused) else None)
        return True

    @property
    def is_unconfirmed(self) -> bool:
        """Whether an outcome waits for nothing but `confirm`."""
        return self._ledger.is_unconfirmed

    @property
    def is_delivered(self) -> bool:
        """Whether every outcome is delivered that does not stand behind a message without one."""
        return self._ledger.is_delivered

    def oldest_s(self) -> float:
        """Seconds since the message longest in flight was read; 0 when there is none. Only on the loop's thread."""
        oldest = self._ledger.oldest_received_at()
        return 0.0 if oldest is None else self._clock() - oldest

    # Assignment

    def assign(self, partitions: Sequence[Partition]) -> None:
        """Begin a new epoch of each partition."""
        self._ledger.assign(partitions)
        if partitions:
            self._start_offsets.assign(partitions)

    def begin_again(self, topic: str) -> int:
        """A topic was made again: read it from its first message; returns how many messages in flight were dropped."""
        partitions = [partition for partition in self.assigned if partition.topic == topic]
        before = self.records
        for partition in partitions:
            self._ledger.cut(partition, 0)
        if partitions:
            self._dropped(partitions)
            self._start_offsets.begin_again(partitions)
        return before - self.records

    def confirm(self, read_by: float) -> None:
        """What was read until then (monotonic seconds) is of the topic that is there, and may be delivered."""
        self._ledger.confirm(read_by)

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """These partitions are about to go: what has not been started is not wanted any more."""
        self._ledger.revoking(partitions)

    def forget(self, partitions: Sequence[Partition]) -> None:
        """These partitions belong to another member: drop what is in flight of them."""
        self._start_offsets.forget(partitions)
        self._ledger.drop(partitions)
        self._breaker.forget(partitions)
        self._dropped(partitions)


def _headers(message: Message[bytes, bytes]) -> Headers:
    headers = headers_of(message)
    if headers is None:
        log.warning("headers_dropped", partition=message.partition(), offset=message.offset())
        return ()
    return headers


def _as_bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
