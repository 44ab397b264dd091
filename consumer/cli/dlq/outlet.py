"""Sends replayed records together with the progress of the replay: both or neither.

On a real broker a batch is one transaction, with the offsets of the dead letters in it. The transactional id belongs to
the group, so that a second replay of the group ends the first one (Kafka fences it), and one that was killed is rolled
back before its progress is read. The embedded broker has no transactions: there the offsets follow the records, and a
kill in between replays a batch again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from consumer.cli.error_messages import UserError
from consumer.clock import Deadline
from consumer.delivery.answers import Answer, Outgoing
from consumer.delivery.delivery_listener import CommitOutcome
from consumer.delivery.sender import produce
from consumer.delivery.transactions import Result, Transactions
from consumer.errors import ExitCode, KafkaFatal
from consumer.kafka.error_table import Classified, Kind, classify, fenced_error, rejected_client

_POLL_S = 0.1
_PASSING = frozenset({Kind.RETRIABLE, Kind.PURGED})
TRANSACTION_MS = 30_000

Refusals = dict[int, Classified]
"""By its place in the batch: why the broker refuses a message."""


class Outlet(Protocol):
    """Where a replay sends its records."""

    def open(self) -> None:
        """End what an earlier replay of the group left behind; before its progress is read."""

    def send(self, batch: Sequence[Outgoing], offsets: Sequence[TopicPartition]) -> Refusals:
        """Send a batch, and commit the offsets of the dead letters that it holds.

        Returns:
            Why single messages are refused; then nothing of the batch was sent and nothing committed.

        Raises:
            UserError: the broker does not take it within the time given, or another replay of the group has begun.
        """

    def close(self) -> None:
        """Leave nothing open."""


class TransactionalOutlet:
    """Records and offsets in one transaction.

    Args:
        make: gives a producer with the group's transactional id.
        consumer: of the group; it is never a member.
        patience_s: how long the broker may take for a batch.
    """

    def __init__(self, make: Callable[[], Producer], consumer: Consumer, patience_s: float) -> None:
        self._transactions = Transactions(make, _Silent())
        self._consumer, self._patience_s = consumer, patience_s

    def open(self) -> None:
        deadline = Deadline.after(self._patience_s)
        self._until_done(self._transactions.register, deadline)

    def send(self, batch: Sequence[Outgoing], offsets: Sequence[TopicPartition]) -> Refusals:
        deadline = Deadline.after(self._patience_s)
        while True:
            try:
                refusals = self._attempt(batch, offsets, deadline)
            except KafkaFatal as error:
                raise UserError(
                    "this replay was ended by the broker: another one of its group has begun, or a transaction took "
                    "too long; what was committed stays, start it again",
                    ExitCode.KAFKA_FATAL,
                ) from error
            if refusals is not None:
                return refusals

    def close(self) -> None:
        self._transactions.close()

    def _attempt(
        self, batch: Sequence[Outgoing], offsets: Sequence[TopicPartition], deadline: Deadline
    ) -> Refusals | None:
        """One transaction; None if it was aborted and may succeed when it is repeated."""
        transactions = self._transactions
        if not transactions.registered:
            self._until_done(transactions.register, deadline)
        self._until_done(transactions.begin, deadline)

        def send_offsets() -> Result:
            return self._repeat(
                lambda: transactions.send_offsets(offsets, self._consumer.consumer_group_metadata), deadline
            )

        refusals = _produce_all(transactions.producer, batch, deadline)
        if refusals:
            if any(each.kind is Kind.PURGED for each in refusals.values()):
                # The transaction has failed; its next call raises why, where another attempt would fail, too.
                send_offsets()
            self._until_done(transactions.abort, deadline)
            lasting = {place: each for place, each in refusals.items() if each.kind not in _PASSING}
            return lasting or None
        result = send_offsets()
        if not transactions.registered:  # the call hung, and a new producer starts over
            return None
        if result == "done":
            result = self._repeat(transactions.commit, deadline)
        if result == "done":
            return {}
        self._until_done(transactions.abort, deadline)
        return None

    def _repeat(self, call: Callable[[], Result], deadline: Deadline) -> Result:
        while (result := call()) == "retry" and self._transactions.registered:
            _check(deadline)
        return result

    def _until_done(self, call: Callable[[], Result], deadline: Deadline) -> None:
        while call() != "done":
            _check(deadline)


class OutletWithoutTransactions:
    """For the embedded broker: the records first, then the offsets."""

    def __init__(self, producer: Producer, consumer: Consumer, patience_s: float) -> None:
        self._producer, self._consumer, self._patience_s = producer, consumer, patience_s

    def open(self) -> None:
        """Nothing is left behind."""

    def send(self, batch: Sequence[Outgoing], offsets: Sequence[TopicPartition]) -> Refusals:
        deadline = Deadline.after(self._patience_s)
        if refusals := _produce_all(self._producer, batch, deadline):
            return refusals
        while True:
            try:
                self._consumer.commit(offsets=list(offsets), asynchronous=False)
            except KafkaException as error:
                if classify(error.args[0]).kind is not Kind.RETRIABLE:
                    raise UserError(f"the progress is not committed ({error.args[0].str()})") from error
                _check(deadline)
            else:
                return {}

    def close(self) -> None:
        """Nothing is open."""


class _Silent:
    """Hears of commits and says nothing: the counts at the end do."""

    def delivered(self, answer: Answer) -> None:
        """No answers are sent here."""

    def committed(self, outcome: CommitOutcome) -> None:
        """The caller gets the result of the call."""


def _produce_all(producer: Producer, batch: Sequence[Outgoing], deadline: Deadline) -> Refusals:
    """Hand all messages to the client and wait for their reports; raises KafkaFatal when it can go on no more."""
    refusals: Refusals = {}
    waiting = len(batch)

    def report(place: int) -> Callable[[KafkaError | None, Message[Any, Any] | None], None]:
        def on_delivery(error: KafkaError | None, _message: Message[Any, Any] | None) -> None:
            nonlocal waiting
            waiting -= 1
            if error is not None:
                refusals[place] = classify(error)

        return on_delivery

    for place, outgoing in enumerate(batch):
        while True:
            try:
                produce(producer, outgoing, report(place))
            except BufferError:
                _poll(producer)
                _check(deadline)
                continue
            except KafkaException as error:
                waiting -= 1
                refusals[place] = classify(error.args[0])
            break
    while waiting:
        _poll(producer)
        _check(deadline)
    for problem in refusals.values():
        if problem.fatal or problem.kind is Kind.FENCED:
            raise fenced_error(problem)
        if problem.kind is Kind.UNAUTHORIZED:
            raise rejected_client(problem)
    return refusals


def _poll(producer: Producer) -> None:
    """Serve the reports. The client raises a fatal error here, and the messages then get no report."""
    try:
        producer.poll(_POLL_S)
    except KafkaException as error:
        raise fenced_error(classify(error.args[0])) from error


def _check(deadline: Deadline) -> None:
    if deadline.expired:
        raise UserError("the broker has not taken the batch in time: look at the broker, then replay again")
