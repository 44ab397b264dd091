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
* A call that is to be repeated is repeated in the next turn; `consumer/delivery/transactions.py` says which,
  and what ends the
  process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.clock import Clock, Deadline, monotonic
from consumer.delivery.answers import MENDABLE, Outgoing, OutgoingBuilder
from consumer.delivery.contract import (
    FORBIDDEN,
    MISSING,
    PASSING,
    UNIT_RECORDS,
    DeliveryObserver,
    position,
    produce,
    refusal,
)
from consumer.delivery.transactions import Transactions, over
from consumer.errors import ServiceError
from consumer.ledger import Entry, Ledger, Release
from consumer.types import Partition

log = structlog.get_logger(__name__)

_TURN_S = 0.8
_AFTER_ABORT_S = 0.2
_REFUSALS = 20  # of one transaction, by an error that no list names: then it is no passing one
_PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
"""Of a message that went with its transaction."""


@dataclass(slots=True)
class _Transaction:
    """An open transaction and how far it is. Once `committing`, only the commit's own outcome decides."""

    release: Release
    waiting: deque[Entry]
    offsets_sent: bool = False
    committing: bool = False
    aborting: bool = False
    refused: ServiceError | None = None  # by an answer of the broker that no list names

    @property
    def offsets(self) -> list[TopicPartition]:
        """What to commit in it."""
        released = self.release.offsets.items()
        return [TopicPartition(topic, number, offset) for (topic, number), offset in released]


@dataclass(slots=True)
class ExactlyOnce:
    """Keeps `consumer.delivery.contract.Delivery` with transactions."""

    consumer: Consumer
    transactions: Transactions
    ledger: Ledger
    builder: OutgoingBuilder
    observer: DeliveryObserver
    commit_interval_s: float
    clock: Clock = monotonic
    _transaction: _Transaction | None = None
    _due: float = 0.0
    _singly: int = 0  # so many records go in transactions of their own: the broker refused one of a batch
    _refusals: int = 0  # transactions in a row in which a message was refused
    _failure: ServiceError | None = None

    def open(self, deadline: Deadline) -> None:
        """Register the transactional id, which aborts what an earlier process of that id left open."""
        while self.transactions.register() != "done":
            if deadline.expired:
                raise ServiceError(
                    "the broker gives no transactional id in time: is its transaction log up? "
                    "VIRNUCPRO_DELIVERY=at_least_once needs none"
                )

    def turn(self) -> None:
        self.transactions.producer.poll(0)
        deadline = Deadline.after(_TURN_S, self.clock)
        while self._transaction is not None or (
            self.clock() >= self._due and self._ready() and self._begin()
        ):
            if not self._go_on() or deadline.expired:
                return

    def flush(self, deadline: Deadline) -> bool:
        while True:
            if self._transaction is None and self._ready() and not self._begin():
                return True
            if deadline.expired:
                return False
            if self._transaction is not None and not self._go_on():
                self.transactions.producer.poll(0.05)

    def forget(self, partitions: Iterable[Partition]) -> None:
        held = self._transaction
        if held is not None and not held.committing and held.release.offsets.keys() & set(partitions):
            held.aborting = True

    def on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Never called: offsets are committed by transactions alone."""

    def close(self, deadline: Deadline) -> None:
        held = self._transaction
        if held is not None and self._failure is None:
            held.aborting = not held.committing
            while self._transaction is held and not deadline.expired:
                self._go_on()
        self.transactions.close()

    # ---- one transaction --------------------------------------------------------------------------------------

    def _ready(self) -> bool:
        """Is the producer registered? A new one has taken over from one that hung."""
        return self.transactions.registered or self.transactions.register() == "done"

    def _begin(self) -> bool:
        """Open a transaction for what is finished; False if nothing is."""
        limit = 1 if self._singly else UNIT_RECORDS
        release = self.ledger.release(partial(position, self.consumer), limit)
        if not release.entries:
            return False
        if self.transactions.begin() != "done":
            return False
        self._due = self.clock() + self.commit_interval_s
        self._transaction = _Transaction(release, deque(release.entries))
        return True

    def _go_on(self) -> bool:
        """Take the transaction as far as it goes now; True when it has ended well."""
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
            if not self.transactions.registered:  # it hung, and a new producer begins anew
                self._transaction = None
                return False
        if held.offsets_sent:
            held.committing = True
            result = self.transactions.commit()
        if self._failure is not None:  # a report that came meanwhile knows more than the commit
            raise self._failure
        if result == "abort":
            held.aborting = True
        if result != "done":
            return False
        self._complete(held)
        return True

    def _produce(self, held: _Transaction) -> bool:
        """Hand the rest of the messages to the client; False if not all of them went, or the transaction is off."""
        while held.waiting:
            outgoing = self.builder.build(held.waiting[0])
            report = partial(self._reported, held, held.waiting[0], outgoing)
            try:
                produce(self.transactions.producer, outgoing, partial(report, len(held.release.entries) == 1))
            except BufferError:
                self.transactions.producer.poll(0)
                return False
            except KafkaException as error:
                report(True, error.args[0], None)
                held.aborting = True
                return False
            held.waiting.popleft()
        return True

    def _complete(self, held: _Transaction) -> None:
        self.ledger.settle(held.release)
        self._transaction = None
        self._refusals = 0
        if len(held.release.entries) >= UNIT_RECORDS or self._singly:
            self._due = self.clock()  # more is waiting than one transaction takes
        self._singly = max(0, self._singly - len(held.release.entries))
        self.observer.committed("ok")
        for entry in held.release.entries:
            self.observer.delivered(entry)

    def _abort(self, held: _Transaction) -> None:
        if self.transactions.abort() != "done":
            return
        self._transaction = None
        self._due = self.clock() + max(self.commit_interval_s, _AFTER_ABORT_S)
        if held.refused is not None:
            self._refusals += 1
            if self._refusals >= _REFUSALS:
                self._failure = held.refused

    # ---- errors -----------------------------------------------------------------------------------------------

    def _reported(
        self,
        held: _Transaction,
        entry: Entry,
        outgoing: Outgoing,
        alone: bool,
        error: KafkaError | None,
        _message: Message | None,
    ) -> None:
        """The client's report for one message; what only says that the transaction was aborted is passed over."""
        if error is None:
            return
        if error.fatal():
            self._failure = over(error)
        elif error.code() in MENDABLE:
            log.warning("refused by the broker", topic=outgoing.topic, error=error.str(), alone=alone)
            if not alone:
                self._singly = len(held.release.entries)
            elif not self.builder.mend(entry, error.code()):
                self._failure = refusal(outgoing, error)
        elif error.code() in MISSING + FORBIDDEN:
            self._failure = refusal(outgoing, error)
        elif error.code() not in _PURGED + PASSING:
            if held.refused is None:
                log.warning("refused by the broker", topic=outgoing.topic, error=error.str(), alone=alone)
            held.refused = refusal(outgoing, error)
