"""What the service's loop asks of a delivery guarantee, and what every guarantee needs.

`consumer/delivery/at_least_once.py` and `consumer/delivery/exactly_once.py` keep the contract `Delivery`;
`consumer/delivery/guarantee.py` chooses between them. All methods run on the thread that owns the clients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from confluent_kafka import TopicPartition

from consumer.clock import Deadline
from consumer.kafka.renewable_consumer import AnyConsumer
from consumer.types import Partition

UNIT_RECORDS = 1000
"""Most messages that are produced together."""


class Delivery(Protocol):
    """A delivery guarantee. `turn` waits for a second at most, `forget` does not wait."""

    def turn(self) -> None:
        """Go one step on; called in every turn of the loop. Raises ServiceError when it cannot go on."""

    def flush(self, deadline: Deadline) -> bool:
        """Deliver and commit every finished prefix; False if the deadline came first. Raises ServiceError."""

    @property
    def commits_in_a_revoke(self) -> bool:
        """Whether what runs is finished and committed while partitions are revoked; else the next owner does it."""

    def forget(self, partitions: Iterable[Partition]) -> None:
        """These partitions belong to another member now: never commit them again."""

    def renew(self) -> None:
        """Go on with a new producer, since a topic was created again.

        librdkafka 2.16.0 takes the leaders of the new topic for outdated where the leader epochs of the old one were
        higher, and its messages time out for as long as the client lives.
        """


def position(consumer: AnyConsumer, partition: Partition) -> int:
    """Where the consumer stands; negative before the first message."""
    return int(consumer.position([TopicPartition(partition.topic, partition.number)])[0].offset)
