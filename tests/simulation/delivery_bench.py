"""One delivery over Kafka in memory, with everything around it; results come when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NoReturn, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from consumer.delivery.answers import Answer, AnswerBuilder
from consumer.delivery.at_least_once import CommitReports
from consumer.delivery.guarantee import DeliveryParts, Guarantee
from consumer.ledger import Ledger
from consumer.types import Partition
from schemas import DeadLetter, decode_dead_letter, decode_prediction
from schemas.codecs import AvroCodec
from tests.simulation.memory_clients import Fault, Link, MemoryConsumer, MemoryProducer
from tests.simulation.memory_kafka import MemoryKafka
from tests.support.factories import STAMP, TOPIC, FakeClock, finished, message, partition, scored

PREDICTIONS, LETTERS = "predictions", "sequences.dlq"
_FOREVER_S = 1e9
_TRANSACTIONAL = {
    "init_transactions": "init",
    "begin_transaction": "begin",
    "send_offsets_to_transaction": "offsets",
    "commit_transaction": "commit",
    "abort_transaction": "abort",
}
_METHODS = {short: method for method, short in _TRANSACTIONAL.items()}


def refuse(error: KafkaError) -> NoReturn:
    raise KafkaException(error)


class DeliveryBench:
    """A member that owns both partitions of the input topic; also its delivery's listener.

    Args:
        room: how many messages the producer's queue holds.
        new_producer: makes a producer in place of `MemoryProducer`.
    """

    def __init__(
        self,
        guarantee: Guarantee,
        room: int = 1000,
        new_producer: Callable[..., MemoryProducer] = MemoryProducer,
    ) -> None:
        self.clock, self.ledger, self.reports = FakeClock(), Ledger(), CommitReports()
        topics = dict.fromkeys((TOPIC, PREDICTIONS, LETTERS), 2)
        self.kafka = MemoryKafka(self.clock, topics, _FOREVER_S, _FOREVER_S, _FOREVER_S, 2_000_000)
        self.reading, self.writing = Link(self.clock), Link(self.clock)
        self.consumer = MemoryConsumer(self.kafka, self.reading, self.reports)
        self.producers: list[MemoryProducer] = []
        self.done: list[int] = []
        self.outcomes: list[str] = []
        self.commits: list[dict[int, int]] = []
        builder = AnswerBuilder(PREDICTIONS, LETTERS, "group", STAMP, AvroCodec())
        builder.set_partition_counts(topics)
        name = guarantee.producer_options.get("transactional.id")
        self._methods = {} if name is None else _METHODS

        def make() -> Producer:
            self.producers.append(new_producer(self.kafka, self.writing, name, room))
            return cast(Producer, self.producers[-1])

        consumer = cast(Consumer, self.consumer)
        parts = DeliveryParts(consumer, self.reports, make, builder, self.ledger, self, self.clock)
        self.stack = ExitStack()
        self._join()
        self.delivery = guarantee.open(parts, self.stack)
        self.writing.calls.clear()

    @property
    def producer(self) -> MemoryProducer:
        """The one in use."""
        return self.producers[-1]

    @property
    def ids(self) -> list[str]:
        """The predictions in the output topic, partition by partition."""
        return [decode_prediction(record.value).id for _, _, record in self.kafka.records(PREDICTIONS)]

    @property
    def letters(self) -> list[DeadLetter]:
        return [decode_dead_letter(record.value) for _, _, record in self.kafka.records(LETTERS)]

    @property
    def calls(self) -> list[str]:
        """The calls of the transactional API."""
        return [_TRANSACTIONAL[call] for call in self.writing.calls if call in _TRANSACTIONAL]

    def delivered(self, answer: Answer) -> None:
        self.done.append(answer.message.source.offset)

    def committed(self, outcome: str) -> None:
        self.outcomes.append(outcome)
        self.note_commits()

    def finish(
        self, *offsets: int, number: int = 0, epoch: int = 1, good: bool = True, size: int = 5, name: str = ""
    ) -> None:
        """Have these messages read and finished."""
        where = partition(number)
        for offset in offsets:
            log = self.kafka.logs[where]
            self.kafka.write(where, [b"x" * size] * (offset + 1 - len(log)))
            while self._position(where) <= offset:
                self.consumer.poll(0)
            self.ledger.receive(message(offset, number=number, epoch=epoch, value=b"x" * size))
            outcome = scored(10, record_id=name or str(offset)) if good else None
            self.ledger.finish(finished(offset, number, epoch, outcome))

    def turn(self, count: int = 1, seconds: float = 0.0) -> None:
        """Turns of the loop: delivery's, then the consumer's poll."""
        for _ in range(count):
            self.delivery.turn()
            self.note_commits()
            self.consumer.poll(0)
            self.note_commits()
            self.clock.advance(seconds)

    def note_commits(self) -> None:
        offsets = {where.number: offset for where, offset in self.kafka.group.committed.items()}
        if offsets and offsets != (self.commits[-1] if self.commits else None):
            self.commits.append(offsets)

    def lose(self, number: int) -> None:
        """A partition is given to another member."""
        self.delivery.forget([partition(number)])
        self.ledger.drop([partition(number)])

    def fail(self, call: str, error: KafkaError, times: int = 1) -> None:
        """Have the next calls of this name fail; the short names of `calls` will do."""
        self.strike(call, partial(refuse, error), times)

    def abort(self, call: str, code: int = KafkaError.ILLEGAL_GENERATION, times: int = 1) -> None:
        """Have the next calls of this name fail so that the transaction must be aborted."""
        self.strike(call, lambda: self.producer.fail_transaction(code), times)

    def strike(self, call: str, what: Callable[[], object], times: int = 1) -> None:
        for link in (self.reading, self.writing):
            link.faults += [Fault(self._methods.get(call, call), what)] * times

    def reject(self, error: KafkaError, topic: str = PREDICTIONS) -> None:
        """Have the broker refuse the next batch for a topic."""
        self.kafka.refusals[topic].append(error)

    def _position(self, where: Partition) -> int:
        (found,) = self.consumer.position([TopicPartition(where.topic, where.number)])
        return int(found.offset)

    def _join(self) -> None:
        owned = [partition(0), partition(1)]
        self.consumer.subscribe(
            [TOPIC],
            on_assign=lambda client, given: client.incremental_assign(given),
            on_revoke=lambda *_: None,
            on_lost=lambda *_: None,
        )
        self.consumer.poll(0)
        self.consumer.poll(0)
        self.ledger.assign(owned)
