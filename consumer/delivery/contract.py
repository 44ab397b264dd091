"""What the service's loop asks of a delivery guarantee, and what every guarantee needs.

`consumer/delivery/at_least_once.py` and `consumer/delivery/exactly_once.py` keep the contract `Delivery`;
here are only the pieces that
both build on: how a message is handed to the client, and what it means when the broker refuses one.

All methods run on the thread that owns the clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from consumer.clock import Deadline
from consumer.delivery.answers import TOO_LARGE, Outgoing
from consumer.errors import ServiceError
from consumer.ledger import Entry
from consumer.types import Partition

UNIT_RECORDS = 1000
"""Most messages that are produced together."""
MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
FORBIDDEN = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
PASSING = (
    KafkaError._MSG_TIMED_OUT,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._DESTROY,  # of a topic that vanished
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
)
"""Refusals of a message that pass by themselves."""
RIGHTS = {
    KafkaError.GROUP_AUTHORIZATION_FAILED: "READ on the group VIRNUCPRO_GROUP_ID",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "READ on the input topic, WRITE on the output and dead-letter topics",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        "WRITE and DESCRIBE on the transactional ids that begin with VIRNUCPRO_GROUP_ID"
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "IDEMPOTENT_WRITE on the cluster",
}
"""What a principal needs on the broker, by the error that says it lacks it."""
REBALANCING = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError._NO_OFFSET,
)

Report = Callable[[KafkaError | None, Message | None], None]
"""The client's word on one message; called from C inside `poll`, so it must not raise."""


class DeliveryObserver(Protocol):
    """What delivery reports, on the thread of the loop."""

    def delivered(self, entry: Entry) -> None:
        """The answer for one message is in Kafka."""

    def committed(self, outcome: str) -> None:
        """A commit ended: "ok", "rebalancing" (the group will sort it out), "error" (it is repeated) or "hung" (the
        client's call did not come back, and a new producer repeats it)."""


class Delivery(Protocol):
    """A delivery guarantee. No method but `open`, `flush` and `close` waits for more than a second."""

    def open(self, deadline: Deadline) -> None:
        """Make ready, before the first turn. Raises ServiceError."""

    def turn(self) -> None:
        """Go one step on; called in every turn of the loop. Raises ServiceError when it cannot go on."""

    def flush(self, deadline: Deadline) -> bool:
        """Deliver and commit every finished prefix; False if the deadline came first."""

    def forget(self, partitions: Iterable[Partition]) -> None:
        """These partitions belong to another member now: never commit them again."""

    def on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """The consumer's callback for asynchronous commits."""

    def close(self, deadline: Deadline) -> None:
        """Leave nothing half-done at the broker; what is not committed will be done again."""


def produce(producer: Producer, outgoing: Outgoing, report: Report) -> None:
    """Hand one message to the client.

    Raises:
        BufferError: the client's queue is full.
        KafkaException: the client refuses it at once.
    """
    arguments: dict[str, Any] = {
        "topic": outgoing.topic,
        "key": outgoing.key,
        "value": outgoing.value,
        "headers": list(outgoing.headers),
        "on_delivery": report,
    }
    if outgoing.partition is not None:
        arguments["partition"] = outgoing.partition
    if outgoing.timestamp_ms is not None:
        arguments["timestamp"] = outgoing.timestamp_ms
    producer.produce(**arguments)


def position(consumer: Consumer, partition: Partition) -> int:
    """Where the consumer stands; negative before the first message."""
    return int(consumer.position([TopicPartition(partition.topic, partition.number)])[0].offset)


def missing_right(error: KafkaError) -> ServiceError:
    """Why the broker turns this client away, and which right it needs."""
    return ServiceError(f"Kafka refuses this client ({error.str()}): grant it {RIGHTS[error.code()]}")


def refusal(outgoing: Outgoing, error: KafkaError) -> ServiceError:
    """Why the broker will never take this message, and what to do about it."""
    code = error.code()
    if code in TOO_LARGE:
        cure = f"raise max.message.bytes of the topic above {outgoing.size}"
    elif code in MISSING:
        cure = "create the topic"
    elif code in FORBIDDEN:
        cure = "grant this client the right to write to it"
    else:
        cure = "see the broker's log"
    return ServiceError(f"the broker refuses a message for topic {outgoing.topic} ({error.str()}): {cure}")
