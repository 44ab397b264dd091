"""At least once: an idempotent producer, and offsets that follow the answers.

    produce the finished prefix -> wait for the report of each message -> forget it, commit its offsets

A crash between the reports and the commit repeats what was in flight, never loses it. At most one unit of
messages is outstanding: the next prefix is built while nothing of an earlier one can still fail, so offsets are
committed in order. Commits are gathered for `commit_interval_s`, since each costs the broker a write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from consumer.clock import Clock, Deadline, monotonic
from consumer.delivery import REBALANCING, UNIT_RECORDS, DeliveryObserver, position, produce, refusal
from consumer.errors import KafkaFatal, ServiceError
from consumer.ledger import Ledger, Release
from consumer.outgoing import Outgoing, OutgoingBuilder
from consumer.work import Partition

log = structlog.get_logger(__name__)

_POLL_S = 0.05
_PASSING = (
    KafkaError._MSG_TIMED_OUT,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
)


@dataclass(slots=True)
class _Unit:
    """Messages produced together: `waiting` are not yet (or again not) with the client, `in_flight` are."""

    release: Release
    waiting: deque[Outgoing]
    offsets: dict[Partition, int]
    in_flight: int = 0


@dataclass(slots=True)
class AtLeastOnce:
    """Idempotent producer, offsets committed after the delivery reports."""

    consumer: Consumer
    producer: Producer
    ledger: Ledger
    builder: OutgoingBuilder
    observer: DeliveryObserver
    commit_interval_s: float
    clock: Clock = monotonic
    _unit: _Unit | None = None
    _uncommitted: dict[Partition, int] = field(default_factory=dict)
    _sent: dict[Partition, int] = field(
        default_factory=dict
    )  # the last offset that was asked to be committed
    _commit_due: float = 0.0
    _failure: ServiceError | None = None

    def open(self, deadline: Deadline) -> None:
        """Nothing to do: an idempotent producer makes itself ready."""

    def close(self, deadline: Deadline) -> None:
        """Nothing to do: offsets follow the answers, so nothing is half-done."""

    def turn(self) -> None:
        self.producer.poll(0)
        self._advance()
        if self._uncommitted and self.clock() >= self._commit_due:
            self._commit_due = self.clock() + self.commit_interval_s
            self._commit(asynchronous=True)

    def flush(self, deadline: Deadline) -> bool:
        self._advance()
        while self._unit is not None:
            if deadline.expired:
                return False
            self.producer.poll(min(_POLL_S, deadline.remaining()))
            self._advance()
        if self._uncommitted:
            self._commit(asynchronous=False)
        return True

    def forget(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._uncommitted.pop(partition, None)
            self._sent.pop(partition, None)
            if self._unit is not None:
                self._unit.offsets.pop(partition, None)

    def on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        for failed in (o for o in offsets if error or o.error):
            log.info("offset commit to be repeated", partition=str(failed), error=str(error or failed.error))
            partition = Partition(failed.topic, failed.partition)
            # Only the last offset asked for: an older one, repeated behind a newer one, would go back.
            if self._sent.get(partition) == failed.offset:
                self._uncommitted.setdefault(partition, failed.offset)
        self._count_commit(error or next((o.error for o in offsets if o.error), None))

    # ---- producing --------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Bring the outstanding unit as far as it goes now, and begin the next when it is through."""
        while self._failure is None:
            self._unit = self._unit or self._next_unit()
            if self._unit is None:
                return
            while self._unit.waiting and self._produce(self._unit, self._unit.waiting[0]):
                self._unit.waiting.popleft()
            if self._unit.waiting or self._unit.in_flight:
                return
            self._complete(self._unit)
        raise self._failure

    def _next_unit(self) -> _Unit | None:
        release = self.ledger.release(partial(position, self.consumer), UNIT_RECORDS)
        if not release.entries:
            return None
        waiting = deque(self.builder.build(entry) for entry in release.entries)
        return _Unit(release, waiting, dict(release.offsets))

    def _produce(self, unit: _Unit, outgoing: Outgoing) -> bool:
        """Hand one message to the client; False while its queue is full."""
        try:
            produce(self.producer, outgoing, partial(self._reported, unit, outgoing))
        except BufferError:
            return False
        except KafkaException as error:
            unit.in_flight += 1
            self._reported(unit, outgoing, error.args[0], None)
            return self._failure is None
        unit.in_flight += 1
        return True

    def _reported(
        self, unit: _Unit, outgoing: Outgoing, error: KafkaError | None, _message: Message | None
    ) -> None:
        """The client's report for one message. It must not raise: it is called from C."""
        unit.in_flight -= 1
        if error is None:
            return
        code = error.code()
        if error.fatal():
            self._failure = KafkaFatal(
                f"the Kafka producer failed for good ({error.str()}): restart the service"
            )
        elif code == KafkaError.MSG_SIZE_TOO_LARGE and (shorter := outgoing.truncated()):
            log.warning("dead letter cut down: the broker takes no message of its size", topic=outgoing.topic)
            unit.waiting.append(shorter)
        elif code in _PASSING:
            log.warning("message sent again", topic=outgoing.topic, error=error.str())
            unit.waiting.append(outgoing)
        else:
            self._failure = refusal(outgoing, error)

    def _complete(self, unit: _Unit) -> None:
        self.ledger.settle(unit.release)
        self._uncommitted.update(unit.offsets)
        self._unit = None
        for entry in unit.release.entries:
            self.observer.delivered(entry)

    # ---- committing -------------------------------------------------------------------------------------------

    def _commit(self, *, asynchronous: bool) -> None:
        offsets = [
            TopicPartition(topic, number, offset) for (topic, number), offset in self._uncommitted.items()
        ]
        self._sent.update(self._uncommitted)
        self._uncommitted = {}
        try:
            if asynchronous:
                self.consumer.commit(offsets=offsets, asynchronous=True)
            else:
                self.on_commit(None, self.consumer.commit(offsets=offsets, asynchronous=False))
        except KafkaException as error:
            self.on_commit(error.args[0], offsets)

    def _count_commit(self, error: KafkaError | None) -> None:
        if error is None:
            self.observer.committed("ok")
        else:
            self.observer.committed("rebalancing" if error.code() in REBALANCING else "error")
