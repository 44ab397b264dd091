"""What the service asks the cluster while it runs: is a broker there, are the topics."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs

from consumer.errors import ServiceError
from consumer.kafka.cluster import BrokerWatch, Cluster, TopicWatch
from consumer.kafka.error_table import ROWS, Kind
from consumer.kafka.topic_ids import NoTopicIds
from tests.support.factories import FakeClock


class Admin:
    """Answers `list_topics`, or fails."""

    def __init__(self, **topics: int) -> None:
        self.topics, self.down, self.asked, self.polled = topics, False, 0, 0

    def poll(self, timeout: float) -> int:
        self.polled += 1
        return 0

    def list_topics(self, topic: str | None = None, timeout: float = 0) -> SimpleNamespace:
        self.asked += 1
        if self.down:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        entries = {
            name: SimpleNamespace(partitions=dict.fromkeys(range(count)), error=None)
            for name, count in self.topics.items()
        }
        return SimpleNamespace(topics=entries)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def watch_topics(cluster: Admin, clock: FakeClock) -> tuple[TopicWatch, list]:
    told: list = []
    return TopicWatch(cluster, ["a", "b"], told.append, clock), told


def test_topics_are_counted_every_half_minute(clock):
    cluster = Admin(a=4, b=2, c=9)
    topics, told = watch_topics(cluster, clock)
    topics.turn()
    assert cluster.asked == 0
    clock.advance(30)
    topics.turn()
    topics.turn()
    assert (cluster.asked, told) == (1, [{"a": 4, "b": 2}])


def test_a_topic_that_is_gone_ends_the_service_when_it_stays_gone(clock):
    topics, _ = watch_topics(Admin(a=4), clock)
    for pause in (30, 5):
        clock.advance(pause)
        topics.turn()
    clock.advance(5)
    with pytest.raises(ServiceError, match=r"b does not exist any more: create it"):
        topics.turn()


def test_looks_that_follow_each_other_at_once_count_as_one(clock):
    topics, _ = watch_topics(Admin(a=4), clock)
    for _ in range(9):
        topics.look()
    clock.advance(5)
    topics.turn()
    clock.advance(5)
    with pytest.raises(ServiceError, match="does not exist any more"):
        topics.turn()


def test_a_topic_that_comes_back_is_forgiven(clock):
    cluster = Admin(a=4)
    topics, told = watch_topics(cluster, clock)
    topics.look()
    clock.advance(5)
    topics.look()
    cluster.topics["b"] = 3
    topics.look()
    assert told == [{"a": 4, "b": 3}]
    del cluster.topics["b"]
    clock.advance(5)
    topics.look()
    clock.advance(5)
    topics.look()


def test_a_broker_that_does_not_answer_says_nothing_of_topics(clock):
    cluster = Admin()
    cluster.down = True
    topics, told = watch_topics(cluster, clock)
    for _ in range(9):
        topics.look()
    assert told == []


def test_brokers_down_and_back(clock):
    changes: list[bool] = []
    cluster = Admin()
    watch = BrokerWatch(changes.append, clock)
    watch.probe(cluster)
    assert cluster.asked == 0, "while all is well no request is sent"
    for _ in range(3):  # each client says so
        watch.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    cluster.down = True
    watch.probe(cluster)
    watch.probe(cluster)
    assert (changes, cluster.asked) == ([False], 1)
    cluster.down = False
    clock.advance(5)
    watch.probe(cluster)
    assert changes == [False, True]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: KafkaError(row.code).name())
def test_the_cause_is_kept_over_what_only_follows_from_it(clock, row):
    watch = BrokerWatch(clock=clock)
    watch.on_error(KafkaError(row.code, "the first"))
    watch.on_error(KafkaError(KafkaError._TRANSPORT, "disconnected"))
    watch.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "all down"))
    if row.kind in (Kind.AUTHENTICATION, Kind.TLS):
        assert watch.why() == f" (the first): {row.cure}"
    else:
        assert watch.why() == " (disconnected)"


def test_an_error_that_repeats_is_logged_now_and_then(clock):
    watch = BrokerWatch(clock=clock)
    with capture_logs() as lines:
        for _ in range(100):
            watch.on_error(KafkaError(KafkaError._TRANSPORT, "refused"))
            clock.advance(0.5)
    assert len(lines) == 2


def test_each_turn_serves_the_callbacks_and_asks_only_what_is_due(clock):
    admin = Admin(a=4, b=2)
    topics, told = watch_topics(admin, clock)
    cluster = Cluster(admin, BrokerWatch(clock=clock), topics, NoTopicIds())
    for _ in range(3):
        cluster.turn()
    assert (admin.polled, admin.asked) == (3, 0)
    cluster.refresh()
    assert told == [{"a": 4, "b": 2}]
    clock.advance(30)
    cluster.turn()
    assert admin.asked == 2
