"""Exactly once: answers and input offsets in one short transaction.

    begin -> produce the finished prefix -> send its offsets -> commit -> forget it

The transaction begins when the results are there and holds nothing but them: it is never open while the device
computes. A reader with `isolation.level=read_committed` sees all of it or nothing, and the input's offsets move with
it, so that a crash at any moment repeats nothing and loses nothing (KIP-98, KIP-447).

* The group's metadata is fetched in the same step that sends the offsets, never kept: with it the broker refuses a
  member of an old generation. Whether this member *owns* a partition the broker does not check, so a partition that
  went away aborts the transaction that holds it (`forget`).
* Results stay in the ledger until the commit has succeeded. After an abort they are sent again, in the same order,
  without running the model again.
* A call that is to be repeated is repeated in the next turn; `consumer/delivery/transactions.py` says which, and what
  ends the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import structlog
from confluent_kafka import TopicPartition

from consumer.clock import Clock, Deadline, monotonic
from consumer.delivery.answers import Answer
from consumer.delivery.contract import UNIT_RECORDS, position
from consumer.delivery.delivery_listener import DeliveryListener
from consumer.delivery.sender import Rejection, Sender
from consumer.delivery.transactions import Transactions
from consumer.errors import ServiceError
from consumer.kafka.error_table import PER_MESSAGE, Kind, fenced_error
from consumer.kafka.renewable_consumer import AnyConsumer
from consumer.ledger import Ledger, Release
from consumer.types import Partition, Source

log = structlog.get_logger(__name__)

_TURN_S = 0.8
_EARLY = 0.2
"""The share of the commit interval that is kept when all that was read is finished: more transactions cost little then,
and nothing would be added to a later one."""
_AFTER_ABORT_S = 0.2
_REFUSALS = 20
"""Aborts in a row with a rejection of no known kind before it counts as permanent."""
_PERMANENT = frozenset({Kind.UNKNOWN_TOPIC, Kind.NOT_IN_METADATA, Kind.UNAUTHORIZED})
_TRANSIENT = frozenset({Kind.RETRIABLE, Kind.PURGED, Kind.UNKNOWN_PARTITION})


@dataclass(slots=True)
class _Transaction:
    """An open transaction and how far it is. Once `committing`, only the commit's own outcome decides."""

    release: Release
    answers: list[Answer]
    waiting: deque[Answer]
    offsets_sent: bool = False
    committing: bool = False
    aborting: bool = False
    # Why the broker rejected a message, where the error is of no known kind.
    rejected: ServiceError | None = None

    @property
    def offsets(self) -> list[TopicPartition]:
        """What to commit in it."""
        released = self.release.offsets.items()
        return [TopicPartition(topic, number, offset) for (topic, number), offset in released]


@dataclass(slots=True)
class ExactlyOnce:
    """Keeps `consumer.delivery.contract.Delivery` with transactions; `open` comes before the first turn.

    Args:
        sender: produces with the client of `transactions`.
        commit_interval_s: the shortest time between two transactions; `_EARLY` of it when nothing else is in flight.
    """

    consumer: AnyConsumer
    transactions: Transactions
    sender: Sender
    ledger: Ledger
    listener: DeliveryListener
    commit_interval_s: float
    clock: Clock = monotonic
    _transaction: _Transaction | None = field(init=False, default=None)
    _due: float = field(init=False, default=0.0)
    _due_early: float = field(init=False, default=0.0)
    # Records left to send one per transaction, after the broker rejected one of a batch.
    _singly: int = field(init=False, default=0)
    # Transactions in a row that were aborted with a rejection of no known kind.
    _refusals: int = field(init=False, default=0)
    # Another producer is to take over before the next transaction.
    _renewing: bool = field(init=False, default=False)
    # Answers that rejections have changed, until they are committed: an abort sends them again.
    _amended: dict[Source, Answer] = field(init=False, default_factory=dict)
    _failure: ServiceError | None = field(init=False, default=None)

    def open(self, deadline: Deadline) -> None:
        """Register the transactional id, which aborts what an earlier process of that id left open.

        Raises:
            ServiceError: no answer before the deadline, or Kafka refuses the id.
        """
        while self.transactions.register() != "done":
            if deadline.expired:
                raise ServiceError(
                    "the broker gives no transactional id in time: is its transaction log up? "
                    "VIRNUCPRO_DELIVERY=at_least_once needs none"
                )

    def turn(self) -> None:
        self.sender.poll(0)
        deadline = Deadline.after(_TURN_S, self.clock)
        while self._transaction is not None or (self._is_due() and self._ready() and self._begin()):
            if not self._go_on() or deadline.expired:
                return

    def flush(self, deadline: Deadline) -> bool:
        while True:
            if self._transaction is None and self._ready() and not self._begin():
                return True
            if deadline.expired:
                return False
            if self._transaction is not None and not self._go_on():
                self.sender.poll(0.05)

    @property
    def commits_in_a_revoke(self) -> bool:
        """In a revoke the client has the generation that follows, so the broker takes a commit of partitions that may
        belong to another member by then: seen with librdkafka 2.16.0 after the group's coordinator had changed (seed 5
        of tests/chaos: a partition was revoked half a second after another member had got it, and committed between).
        A transaction whose offsets were sent before is finished: the next owner waits for it.
        """
        return False

    def forget(self, partitions: Iterable[Partition]) -> None:
        held = self._transaction
        if held is not None and not held.committing and held.release.offsets.keys() & set(partitions):
            held.aborting = True

    def renew(self) -> None:
        self._renewing = True
        held = self._transaction
        if held is not None and not held.committing:
            held.aborting = True

    def close(self, deadline: Deadline) -> None:
        """Leave no transaction open at the broker; what is not committed will be done again."""
        held = self._transaction
        if held is not None and self._failure is None:
            held.aborting = not held.committing
            try:
                while self._transaction is held and not deadline.expired:
                    self._go_on()
            except ServiceError as error:
                # The process ends for another reason, which is to be its last word. The next one of this id aborts.
                if not held.aborting:
                    raise
                log.warning("transaction_left_open", error=str(error))
        self.transactions.close()

    # ---- one transaction --------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        now = self.clock()
        return now >= self._due or (now >= self._due_early and self.ledger.is_finished)

    def _ready(self) -> bool:
        """True once the producer is registered; a new one takes over from one that hung or is to be renewed."""
        if self._renewing:
            self._renewing = False
            self.transactions.replace()
        return self.transactions.registered or self.transactions.register() == "done"

    def _begin(self) -> bool:
        """Open a transaction for what is finished; False if nothing is."""
        limit = 1 if self._singly else UNIT_RECORDS
        release = self.ledger.release(partial(position, self.consumer), limit)
        if not release.entries:
            return False
        if self.transactions.begin() != "done":
            return False
        now = self.clock()
        self._due, self._due_early = now + self.commit_interval_s, now + _EARLY * self.commit_interval_s
        answers = self._answers(release)
        self._transaction = _Transaction(release, answers, deque(answers))
        return True

    def _answers(self, release: Release) -> list[Answer]:
        """The answers to a release, as earlier rejections have left them."""
        self._amended = {s: answer for s, answer in self._amended.items() if self.ledger.is_current(s)}
        return [self._amended.get(entry.message.source) or Answer.of(entry) for entry in release.entries]

    def _go_on(self) -> bool:
        """Take the transaction as far as it goes now; True when it is committed."""
        held = self._transaction
        if self._failure is not None:
            raise self._failure
        if held is None:
            return True
        if held.aborting:
            self._abort(held)
            return False
        if held.waiting and not self._produce(held):
            return False
        if not held.offsets_sent:
            result = self.transactions.send_offsets(held.offsets, self.consumer.consumer_group_metadata)
            held.offsets_sent = result == "done"
            if not self.transactions.registered:
                # The call hung, and a new producer starts over.
                self._transaction = None
                return False
        if held.offsets_sent:
            held.committing = True
            result = self.transactions.commit()
        # A report that came meanwhile knows more than the commit.
        if self._failure is not None:
            raise self._failure
        if result == "abort":
            held.aborting = True
        if result != "done":
            return False
        self._complete(held)
        return True

    def _produce(self, held: _Transaction) -> bool:
        """Hand the rest of the messages to the client; False if not all of them went, or the transaction is to be
        aborted."""
        alone = len(held.answers) == 1
        while held.waiting:
            sent = self.sender.send(held.waiting[0], alone, partial(self._reported, held))
            if sent == "full":
                self.sender.poll(0)
                return False
            if held.aborting:
                return False
            held.waiting.popleft()
        return True

    def _complete(self, held: _Transaction) -> None:
        self.ledger.settle(held.release)
        self._transaction = None
        self._refusals = 0
        if len(held.release.entries) >= UNIT_RECORDS or self._singly:
            # More is waiting than one transaction takes.
            self._due = self.clock()
        self._singly = max(0, self._singly - len(held.release.entries))
        self.listener.committed("ok")
        for answer in held.answers:
            self.listener.delivered(answer)

    def _abort(self, held: _Transaction) -> None:
        if self.transactions.abort() != "done":
            return
        self._transaction = None
        self._due = self._due_early = self.clock() + max(self.commit_interval_s, _AFTER_ABORT_S)
        if held.rejected is not None:
            self._refusals += 1
            if self._refusals >= _REFUSALS:
                self._failure = held.rejected

    # ---- errors -----------------------------------------------------------------------------------------------

    def _reported(self, held: _Transaction, rejection: Rejection | None) -> None:
        """The report for one message. The transaction itself is aborted by what its own calls say; one that only
        says that it was aborted, or that is transient, is ignored."""
        if rejection is None:
            return
        held.aborting = held.aborting or rejection.at_once
        problem = rejection.problem
        if problem.fatal:
            self._failure = fenced_error(problem)
        elif problem.kind in PER_MESSAGE:
            rejection.log("answer_rejected")
            if not rejection.alone:
                self._singly = len(held.release.entries)
            elif self.sender.amend(rejection):
                self._amended[rejection.answer.message.source] = rejection.answer
            else:
                self._failure = rejection.failure
        elif problem.kind in _PERMANENT:
            self._failure = rejection.failure
        elif problem.kind not in _TRANSIENT:
            if held.rejected is None:
                rejection.log("answer_rejected")
            held.rejected = rejection.failure
