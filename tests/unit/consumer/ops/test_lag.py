"""How far behind the service says it is, against an account of the log that the test keeps."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from consumer.ledger import Ledger
from consumer.ops.events import Event, LagMeasured, PartitionLag, Rebalanced, Turned
from consumer.ops.lag import INTERVAL_S, LagReporter
from consumer.ops.metrics import Metrics
from consumer.types import Partition
from tests.support.factories import FakeClock, finished, message, partition

NOW = 1_700_000_100.0
TURNED = Turned(0.1, "open", 0.0)


class Client:
    """A consumer's memory: positions and ends; -1001 where it knows nothing."""

    def __init__(self) -> None:
        self.positions: dict[Partition, int] = {}
        self.ends: dict[Partition, int] = {}
        self.calls = 0
        self.error: KafkaException | None = None

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return [
            TopicPartition(
                tp.topic, tp.partition, self.positions.get(Partition(tp.topic, tp.partition), -1001)
            )
            for tp in partitions
        ]

    def get_watermark_offsets(self, partition: TopicPartition, *, cached: bool) -> tuple[int, int]:
        assert cached, "no request on the thread of the loop"
        return 0, self.ends.get(Partition(partition.topic, partition.partition), -1001)


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def happened(self, event: Event) -> None:
        self.events.append(event)


class Bench:
    def __init__(self) -> None:
        self.client, self.ledger, self.clock, self.heard = Client(), Ledger(), FakeClock(), Heard()
        self.starts: dict[Partition, int] = {}
        self.wall = NOW
        self.reporter = LagReporter(
            self.client, self.ledger, self.starts.get, self.heard, self.clock, lambda: self.wall
        )

    def lag(self) -> dict[Partition, PartitionLag]:
        self.clock.advance(INTERVAL_S)
        self.reporter.happened(TURNED)
        event = self.heard.events[-1]
        assert isinstance(event, LagMeasured)
        return dict(event.partitions)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.ledger.assign([partition(0)])
    return bench


def test_from_the_first_unanswered_message_to_the_end(bench):
    bench.client.ends[partition(0)], bench.client.positions[partition(0)] = 20, 12
    for offset in (10, 11):
        bench.ledger.receive(message(offset, timestamp_ms=int((NOW - 40 + offset) * 1000)))
    assert bench.lag() == {partition(0): PartitionLag(10, 30.0)}
    bench.ledger.finish(finished(11))
    assert bench.lag()[partition(0)].records == 10, "a later one that is finished is not answered yet"
    bench.ledger.finish(finished(10))
    release = bench.ledger.release(lambda _: 12, 100)
    assert bench.lag()[partition(0)].records == 10, "what is finished is not delivered yet"
    bench.ledger.settle(release)
    assert bench.lag()[partition(0)].records == 8


def test_a_marker_at_the_end_is_not_behind(bench):
    bench.client.ends[partition(0)] = 2
    bench.ledger.receive(message(0))
    bench.ledger.finish(finished(0))
    bench.ledger.settle(bench.ledger.release(lambda _: 1, 100))
    bench.client.positions[partition(0)] = 2  # offset 1 is a transaction's marker
    assert bench.lag() == {partition(0): PartitionLag(0, 0.0)}


def test_an_idle_partition_begins_at_the_offset_of_the_group(bench):
    bench.client.ends[partition(0)] = 7
    assert bench.lag() == {}, "neither position nor committed offset is known"
    bench.starts[partition(0)] = 7
    assert bench.lag() == {partition(0): PartitionLag(0, 0.0)}


def test_unread_messages_are_as_old_as_they_are_known(bench):
    bench.starts[partition(0)], bench.client.ends[partition(0)] = 4, 7
    assert bench.lag() == {partition(0): PartitionLag(3, 0.0)}
    assert bench.lag() == {partition(0): PartitionLag(3, INTERVAL_S)}
    bench.starts[partition(0)] = 7
    assert bench.lag() == {partition(0): PartitionLag(0, 0.0)}
    bench.client.ends[partition(0)] = 8
    assert bench.lag() == {partition(0): PartitionLag(1, 0.0)}, "the age of others is not that of this one"


def test_a_timestamp_may_be_missing_or_in_the_future(bench):
    bench.client.ends[partition(0)] = 5
    bench.ledger.receive(message(3, timestamp_ms=None, received_at=90.0))
    assert bench.lag()[partition(0)].seconds == bench.clock() - 90.0
    bench.ledger.drop([partition(0)])
    bench.ledger.assign([partition(0)])
    bench.ledger.receive(message(3, epoch=2, timestamp_ms=int((NOW + 1000) * 1000)))
    assert bench.lag()[partition(0)].seconds == 0


def test_an_end_that_is_older_than_the_message_counts_the_message(bench):
    bench.client.ends[partition(0)] = 2
    bench.ledger.receive(message(5))
    assert bench.lag()[partition(0)].records == 1


def test_the_client_is_asked_once_a_second(bench):
    for _ in range(100):
        bench.reporter.happened(TURNED)
        bench.clock.advance(INTERVAL_S / 50)
    assert bench.client.calls == 2
    assert bench.heard.events.count(TURNED) == 100


def test_while_the_assignment_changes_nothing_is_said(bench):
    bench.client.ends[partition(0)], bench.starts[partition(0)] = 2, 1
    bench.client.error = KafkaException(KafkaError(KafkaError._STATE))
    assert bench.lag() == {}
    bench.client.error = None
    assert bench.lag()[partition(0)].records == 1


def test_nothing_is_asked_without_a_partition(bench):
    bench.ledger.drop([partition(0)])
    assert bench.lag() == {}
    assert bench.client.calls == 0


@given(st.lists(st.tuples(st.sets(st.integers(0, 5)), st.booleans()), max_size=12))
def test_partition_labels_are_those_of_the_assigned_partitions(steps):
    metrics = Metrics()
    for numbers, measured in steps:
        if measured:
            metrics.happened(LagMeasured({partition(n): PartitionLag(n, float(n)) for n in numbers}))
            assert _labelled(metrics) == numbers
        else:
            before = _labelled(metrics)
            metrics.happened(Rebalanced("revoked", tuple(map(partition, numbers))))
            assert _labelled(metrics) == before - numbers


def _labelled(metrics: Metrics) -> set[int]:
    found = {
        name: {
            int(sample.labels["partition"])
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.name == name
        }
        for name in ("vnp_consumer_lag_records", "vnp_consumer_lag_seconds")
    }
    records, seconds = found.values()
    assert records == seconds
    return records
