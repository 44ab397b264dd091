"""At least once: an idempotent producer, and offsets that follow the answers.

    produce the finished prefix -> wait for the report of each message -> forget it, commit its offsets

A crash between the reports and the commit repeats what was in flight, never loses it. At most one unit of
messages is outstanding: the next prefix is built while nothing of an earlier one can still fail, so offsets are
committed in order. Commits are gathered for `commit_interval_s`, since each costs the broker a write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from consumer.clock import Clock, Deadline, monotonic
from consumer.delivery.answers import Answer
from consumer.delivery.contract import UNIT_RECORDS, position
from consumer.delivery.delivery_listener import DeliveryListener
from consumer.delivery.sender import Rejection, Replaceable, Sender
from consumer.errors import ServiceError
from consumer.kafka.error_table import PER_MESSAGE, Kind, classify, fatal_error, rejected_client
from consumer.kafka.renewable_consumer import AnyConsumer
from consumer.ledger import Ledger, Release
from consumer.types import Partition

log = structlog.get_logger(__name__)

_POLL_S = 0.05
_TIMED_OUT = KafkaError(KafkaError._MSG_TIMED_OUT).name()


class CommitReports:
    """The consumer's callback for asynchronous commits: keeps the reports until delivery takes them.

    The callback runs inside the consumer's `poll`, on the loop's thread, and delivery takes the reports in the same
    turn: there are never more than commits of one turn and of those that were on their way.
    """

    def __init__(self) -> None:
        self._reports: deque[tuple[KafkaError | None, list[TopicPartition]]] = deque()

    def __call__(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Keep one report."""
        self._reports.append((error, offsets))

    def take(self) -> Iterator[tuple[KafkaError | None, list[TopicPartition]]]:
        """The reports that have come, each once, in their order."""
        while self._reports:
            yield self._reports.popleft()


@dataclass(slots=True)
class _Unit:
    """Messages produced together.

    `waiting` are not yet with the client, `in_flight` are, `failed` came back; each with its place in the release.
    After a failure the rest goes `alone`, one message at a time: so they stay in order, and a broker that rejects a
    batch as too large finds the message in it. `timed_out` says that the client gave one up after minutes.
    """

    release: Release
    answers: list[Answer]
    waiting: deque[int]
    offsets: dict[Partition, int]
    failed: list[int] = field(default_factory=list)
    in_flight: int = 0
    alone: bool = False
    timed_out: bool = False


@dataclass(slots=True)
class AtLeastOnce:
    """Idempotent producer, offsets committed after the delivery reports.

    Args:
        reports: the consumer's `on_commit`.
        producer: the one by which `sender` produces.
        commit_interval_s: the shortest time between two commits.
    """

    consumer: AnyConsumer
    reports: CommitReports
    producer: Replaceable
    sender: Sender
    ledger: Ledger
    listener: DeliveryListener
    commit_interval_s: float
    clock: Clock = monotonic
    _unit: _Unit | None = field(init=False, default=None)
    _uncommitted: dict[Partition, int] = field(init=False, default_factory=dict)
    # The last offset that was requested to be committed.
    _sent: dict[Partition, int] = field(init=False, default_factory=dict)
    _commit_due: float = field(init=False, default=0.0)
    _failure: ServiceError | None = field(init=False, default=None)

    def turn(self) -> None:
        self.sender.poll(0)
        self._take_reports()
        self._advance()
        if self._uncommitted and self.clock() >= self._commit_due:
            self._commit_due = self.clock() + self.commit_interval_s
            self._commit(asynchronous=True)

    def flush(self, deadline: Deadline) -> bool:
        self._take_reports()
        self._advance()
        while self._unit is not None:
            if deadline.expired:
                return False
            self.sender.poll(min(_POLL_S, deadline.remaining()))
            self._advance()
        if self._uncommitted:
            self._commit(asynchronous=False)
        return not self._uncommitted

    @property
    def commits_in_a_revoke(self) -> bool:
        """So that little is answered twice."""
        return True

    def forget(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._uncommitted.pop(partition, None)
            self._sent.pop(partition, None)
            if self._unit is not None:
                self._unit.offsets.pop(partition, None)

    def renew(self) -> None:
        """What is outstanding is sent again."""
        self._unit = None
        self.producer.replace()

    # ---- producing --------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Bring the outstanding unit as far as it goes now, and begin the next when it is delivered."""
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
        answers = [Answer.of(entry) for entry in release.entries]
        return _Unit(release, answers, deque(range(len(answers))), dict(release.offsets))

    def _send(self, unit: _Unit) -> None:
        if unit.failed:
            if unit.in_flight:
                # What else fails is sent again in order with these.
                return
            unit.waiting = deque(sorted([*unit.failed, *unit.waiting]))
            unit.failed, unit.alone = [], True
            if unit.timed_out:
                # A client that has dropped its last broker never finds one again (consumer/kafka/renewable_admin.py).
                unit.timed_out = False
                self.producer.replace()
        while unit.waiting and not (unit.alone and unit.in_flight) and not unit.failed:
            place = unit.waiting[0]
            unit.in_flight += 1
            report = partial(self._reported, unit, place)
            if self.sender.send(unit.answers[place], unit.alone, report) == "full":
                unit.in_flight -= 1
                return
            unit.waiting.popleft()

    def _reported(self, unit: _Unit, place: int, rejection: Rejection | None) -> None:
        """The report for one message: what is transient, or avoidable by another form of the answer, goes again."""
        unit.in_flight -= 1
        if rejection is None:
            return
        unit.failed.append(place)
        problem = rejection.problem
        if problem.fatal:
            self._failure = fatal_error("producer", problem)
        elif problem.kind in PER_MESSAGE:
            rejection.log("answer_rejected")
            if rejection.alone and not self.sender.amend(rejection):
                self._failure = rejection.failure
        elif problem.kind in (Kind.RETRIABLE, Kind.UNKNOWN_PARTITION):
            rejection.log("answer_retried")
            unit.timed_out = unit.timed_out or problem.name == _TIMED_OUT
        else:
            self._failure = rejection.failure

    def _complete(self, unit: _Unit) -> None:
        self.ledger.settle(unit.release)
        self._uncommitted.update(unit.offsets)
        self._unit = None
        for answer in unit.answers:
            self.listener.delivered(answer)

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
                self._committed(None, self.consumer.commit(offsets=offsets, asynchronous=False))
        except KafkaException as error:
            self._committed(error.args[0], offsets)

    def _take_reports(self) -> None:
        for error, offsets in self.reports.take():
            self._committed(error, offsets)

    def _committed(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """A commit has ended; what failed is committed again, unless a later offset has been requested."""
        for failed in (o for o in offsets if error or o.error):
            log.info("offset_commit_failed", partition=str(failed), error=str(error or failed.error))
            partition = Partition(failed.topic, failed.partition)
            if self._sent.get(partition) == failed.offset:
                self._uncommitted.setdefault(partition, failed.offset)
        first = error or next((o.error for o in offsets if o.error), None)
        if first is None:
            self.listener.committed("ok")
            return
        problem = classify(first)
        if problem.kind is Kind.UNAUTHORIZED:
            self._failure = rejected_client(problem)
        self.listener.committed("rebalancing" if problem.kind is Kind.REBALANCING else "error")
