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
from consumer.delivery.answers import MENDABLE, Outgoing, OutgoingBuilder
from consumer.delivery.contract import (
    PASSING,
    REBALANCING,
    RIGHTS,
    UNIT_RECORDS,
    DeliveryObserver,
    missing_right,
    position,
    produce,
    refusal,
)
from consumer.errors import KafkaFatal, ServiceError
from consumer.ledger import Ledger, Release
from consumer.types import Partition

log = structlog.get_logger(__name__)

_POLL_S = 0.05


@dataclass(slots=True)
class _Unit:
    """Messages produced together.

    `waiting` are not yet with the client, `in_flight` are, `failed` came back; each with its place in the release.
    After a failure the rest goes `alone`, one message at a time: so they stay in order, and a broker that finds a
    batch too large finds the message in it.
    """

    release: Release
    waiting: deque[int]
    offsets: dict[Partition, int]
    failed: list[int] = field(default_factory=list)
    in_flight: int = 0
    alone: bool = False


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
        return not self._uncommitted

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
        first = error or next((o.error for o in offsets if o.error), None)
        if first is not None and first.code() in RIGHTS:
            self._failure = missing_right(first)
        self._count_commit(first)

    # ---- producing --------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Bring the outstanding unit as far as it goes now, and begin the next when it is through."""
        while self._failure is None:
            self._unit = self._unit or self._next_unit()
            if self._unit is None:
                return
            self._send(self._unit)
            if self._unit.waiting or self._unit.in_flight or self._unit.failed:
                break
            self._complete(self._unit)
        if self._failure is not None:
            raise self._failure

    def _next_unit(self) -> _Unit | None:
        release = self.ledger.release(partial(position, self.consumer), UNIT_RECORDS)
        if not release.entries:
            return None
        return _Unit(release, deque(range(len(release.entries))), dict(release.offsets))

    def _send(self, unit: _Unit) -> None:
        if unit.failed:
            if unit.in_flight:
                return  # what else comes back goes again in order with these
            unit.waiting = deque(sorted([*unit.failed, *unit.waiting]))
            unit.failed, unit.alone = [], True
        while unit.waiting and not (unit.alone and unit.in_flight) and not unit.failed:
            if not self._produce(unit, unit.waiting[0]):
                return
            unit.waiting.popleft()

    def _produce(self, unit: _Unit, place: int) -> bool:
        """Hand one message to the client; False while its queue is full."""
        outgoing = self.builder.build(unit.release.entries[place])
        report = partial(self._reported, unit, place, outgoing)
        try:
            produce(self.producer, outgoing, partial(report, unit.alone))
        except BufferError:
            return False
        except KafkaException as error:  # about this very message, whatever goes with it
            unit.in_flight += 1
            report(True, error.args[0], None)
            return True
        unit.in_flight += 1
        return True

    def _reported(
        self,
        unit: _Unit,
        place: int,
        outgoing: Outgoing,
        alone: bool,
        error: KafkaError | None,
        _message: Message | None,
    ) -> None:
        """The client's report for one message. It must not raise: it is called from C."""
        unit.in_flight -= 1
        if error is None:
            return
        if error.fatal():
            self._failure = KafkaFatal(
                f"the Kafka producer failed for good ({error.str()}): restart the service"
            )
        elif error.code() in MENDABLE:
            log.warning("refused by the broker", topic=outgoing.topic, error=error.str(), alone=alone)
            if alone and not self.builder.mend(unit.release.entries[place], error.code()):
                self._failure = refusal(outgoing, error)
            unit.failed.append(place)
        elif error.code() in PASSING or error.retriable():
            log.warning("message sent again", topic=outgoing.topic, error=error.str())
            unit.failed.append(place)
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
