"""Kafka as the conformance test sees it: in memory or a real broker, through the same methods of the same clients."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.simulation.memory_clients import Link, MemoryConsumer, MemoryProducer
from tests.simulation.memory_kafka import MemoryKafka
from tests.support.factories import FakeClock
from tests.support.kafka.broker import Broker

PARTITIONS = 2
_LOGGER = logging.getLogger("librdkafka")
CALL_S = 15.0
"""For a call that has to come back."""
_POLL_S = 0.05
_WAIT_S = 60.0
_QUIET_S = 2.0
_ROOM = 1000


class Cluster(Protocol):
    """One input topic of PARTITIONS partitions and one group, both new."""

    topic: str

    def consumer(self) -> Any:
        """A client that reads as the service does: cooperative, read_committed, from the first record."""

    def producer(self, name: str) -> Any:
        """A transactional client; two of one name have the same transactional id."""

    def now(self) -> float:
        """Seconds, of the cluster's own clock."""

    def close(self) -> None:
        """Close every client that is still open."""


class MemoryCluster:
    """Kafka of tests/simulation/memory_kafka.py, on a clock that goes on when a consumer waits in `poll`."""

    def __init__(self) -> None:
        self.topic = "in"
        self._clock = FakeClock()
        self._kafka = MemoryKafka(self._clock, {self.topic: PARTITIONS}, transaction_s=_WAIT_S)

    def consumer(self) -> MemoryConsumer:
        return MemoryConsumer(self._kafka, Link(self._clock), lambda *_: None)

    def producer(self, name: str) -> MemoryProducer:
        return MemoryProducer(self._kafka, Link(self._clock), name, _ROOM)

    def now(self) -> float:
        return self._clock()

    def close(self) -> None:
        """Nothing is held open."""


class RealCluster:
    """A topic and a group on a real broker."""

    def __init__(self, broker: Broker) -> None:
        name = f"conformance-{uuid.uuid4().hex[:8]}"
        self.topic, self._group, self._bootstrap = f"{name}.in", name, broker.bootstrap_servers
        self._open = ExitStack()
        broker.create_topics({self.topic: PARTITIONS})

    def consumer(self) -> Consumer:
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": self._group,
                "partition.assignment.strategy": "cooperative-sticky",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "session.timeout.ms": 10_000,
                "heartbeat.interval.ms": 500,
                "fetch.wait.max.ms": 50,
            }
        )
        self._open.callback(consumer.close)
        return consumer

    def producer(self, name: str) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "transactional.id": f"{self._group}.{name}",
                "transaction.timeout.ms": int(1000 * _WAIT_S),
                "linger.ms": 0,
                # Served in `poll`: one that outlives the broker says nothing.
                "logger": _LOGGER,
            }
        )

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        self._open.close()


class Reader:
    """A consumer of a cluster with what it was told and given, in order.

    Attributes:
        told: ("assign" or "revoke" or "lost", partition numbers).
        found: (partition number, offset, value).
    """

    def __init__(self, cluster: Cluster) -> None:
        self.client, self._cluster = cluster.consumer(), cluster
        self.owned: set[int] = set()
        self.told: list[tuple[str, frozenset[int]]] = []
        self.found: list[tuple[int, int, bytes | None]] = []
        self.client.subscribe(
            [cluster.topic],
            on_assign=self._assigned,
            on_revoke=lambda _, partitions: self._gone("revoke", partitions),
            on_lost=lambda _, partitions: self._gone("lost", partitions),
        )

    @property
    def offsets(self) -> list[int]:
        """Of what was read of partition 0."""
        return [offset for number, offset, _ in self.found if number == 0]

    def place(self, number: int = 0, offset: int = -1001) -> TopicPartition:
        return TopicPartition(self._cluster.topic, number, offset)

    def position(self) -> int:
        """In partition 0."""
        return int(self.client.position([self.place()])[0].offset)

    def committed(self) -> int:
        """The group's offset of partition 0, 0 if it has none."""
        return max(0, int(self.client.committed([self.place()], timeout=CALL_S)[0].offset))

    def poll(self) -> None:
        message = self.client.poll(_POLL_S)
        if message is not None:
            assert message.error() is None, message.error()
            self.found.append((message.partition(), message.offset(), message.value()))

    def _assigned(self, client: Any, partitions: list[TopicPartition]) -> None:
        client.incremental_assign(partitions)
        numbers = frozenset(tp.partition for tp in partitions)
        self.owned |= numbers
        if numbers:
            self.told.append(("assign", numbers))

    def _gone(self, event: str, partitions: list[TopicPartition]) -> None:
        numbers = frozenset(tp.partition for tp in partitions)
        self.owned -= numbers
        self.told.append((event, numbers))


def until(cluster: Cluster, condition: Callable[[], bool], what: str, *readers: Reader) -> None:
    """Poll the readers in turns until the condition holds."""
    deadline = cluster.now() + _WAIT_S
    while not condition():
        assert cluster.now() < deadline, f"not within {_WAIT_S} s: {what}"
        for reader in readers:
            reader.poll()


def quiet(cluster: Cluster, *readers: Reader) -> None:
    """Poll the readers for a while in which nothing is expected to come."""
    end = cluster.now() + _QUIET_S
    until(cluster, lambda: cluster.now() >= end, "time goes on", *readers)


def write(cluster: Cluster, producer: Any, *values: bytes, number: int = 0) -> None:
    """Produce into one partition and wait for the reports; the transaction stays open."""
    reports: list[object] = []
    for value in values:
        producer.produce(
            cluster.topic, value, partition=number, on_delivery=lambda error, _: reports.append(error)
        )
    deadline = time.monotonic() + CALL_S
    while len(reports) < len(values):
        assert time.monotonic() < deadline, f"{len(reports)} of {len(values)} reports are in"
        producer.poll(_POLL_S)
    assert not any(reports), reports
