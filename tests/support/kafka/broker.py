"""What the tests ask of a real broker, whatever it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

PROPERTIES: Mapping[str, object] = {
    "auto.create.topics.enable": "false",
    # One broker is all there is; `REPLICATED` is for three.
    "default.replication.factor": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # Tests wait for what these delay: dead transactions, a broker back after a kill, new members.
    # Not shorter: a broker that looks for old transactions while it starts, before its partitions have a leader, takes
    # these for deleted, writes no end of the transaction into them, and holds it for ended (KAFKA-20734, open).
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 5000,
    "broker.session.timeout.ms": 2000,
    "broker.heartbeat.interval.ms": 500,
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    "group.consumer.session.timeout.ms": 6000,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.heartbeat.interval.ms": 500,
    "group.consumer.min.heartbeat.interval.ms": 500,
    # Small: its data is, and the machine may be.
    "log.cleaner.dedupe.buffer.size": 2 << 20,
    "num.network.threads": 2,
    "num.io.threads": 4,
}
"""How every broker of the tests is set up."""

REPLICATED: Mapping[str, object] = {
    "default.replication.factor": 3,
    "min.insync.replicas": 2,
    "offsets.topic.replication.factor": 3,
    "transaction.state.log.replication.factor": 3,
    "transaction.state.log.min.isr": 2,
    "share.coordinator.state.topic.replication.factor": 3,
    "share.coordinator.state.topic.min.isr": 2,
}
"""What differs where there are three: each partition on all of them, and two have to have what is acknowledged."""


class NoBroker(RuntimeError):
    """There can be no real broker on this machine; the message says why."""


class Broker(Protocol):
    """A running broker; each test makes new topics on it."""

    bootstrap_servers: str

    def create_topics(self, topics: Mapping[str, int], **config: str) -> None:
        """Create topics, each with its number of partitions."""

    def stop(self) -> None:
        """Stop it and free what it holds."""
