"""The client configurations, given to real clients on the embedded broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from consumer.config.clients import (
    asking_config,
    common_config,
    consumer_config,
    producer_config,
    publisher_config,
)
from consumer.config.environment import OWNED
from consumer.config.settings import ServiceSettings, load_settings
from consumer.kafka.embedded import EmbeddedBroker


@pytest.fixture
def settings() -> Iterator[ServiceSettings]:
    with EmbeddedBroker({"sequences": 2, "predictions": 2}) as broker:
        yield load_settings({}).with_bootstrap(broker.bootstrap_servers)


def test_the_service_reads_from_the_beginning_and_commits_nothing_by_itself(settings):
    producer = Producer(producer_config(settings))
    producer.produce("sequences", b"value", b"key", 0)
    assert producer.flush(10) == 0
    consumer = Consumer(consumer_config(settings))
    consumer.subscribe(["sequences"], on_assign=lambda client, given: client.incremental_assign(given))
    message = consumer.poll(10)
    assert message.value() == b"value"
    consumer.close()
    again = Consumer(consumer_config(settings))
    (committed,) = again.committed([TopicPartition("sequences", 0)], timeout=10)
    again.close()
    assert committed.offset < 0


def test_the_producer_takes_what_the_service_takes_and_no_more(settings):
    small = settings.model_copy(update={"max_message_bytes": 10_000})
    producer = Producer(producer_config(small))
    producer.produce("predictions", bytes(10_000 + 1_000_000))
    with pytest.raises(Exception, match="Message size too large") as refused:
        producer.produce("predictions", bytes(10_000 + 1_100_000))
    assert refused.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert producer.flush(10) == 0


def test_keys_go_to_the_partition_that_java_clients_choose(settings):
    # murmur2 of "foobar" and "21", as org.apache.kafka.common.utils.UtilsTest has them.
    murmur2 = {b"foobar": -790332482, b"21": -973932308}
    publisher = Producer(publisher_config(settings.kafka_bootstrap_servers, {}))
    chosen: dict[bytes, int] = {}
    for key in murmur2:
        publisher.produce(
            "sequences", b"", key, on_delivery=lambda _, m: chosen.__setitem__(m.key(), m.partition())
        )
    assert publisher.flush(10) == 0
    assert chosen == {key: (value & 0x7FFFFFFF) % 2 for key, value in murmur2.items()}


def test_pass_through_options_win_over_tuning_but_not_over_promises():
    tuned = ServiceSettings(kafka={"linger.ms": "100", "auto.offset.reset": "latest", "client.id": "mine"})
    assert producer_config(tuned)["linger.ms"] == "100"
    assert consumer_config(tuned)["auto.offset.reset"] == "latest"
    assert common_config(tuned)["client.id"] == "mine"
    assert publisher_config("x:1", {"linger.ms": "1"})["linger.ms"] == "1"
    hostile = ServiceSettings(
        kafka={"enable.auto.commit": "true", "enable.idempotence": "false", "acks": "0"}
    )
    assert consumer_config(hostile)["enable.auto.commit"] is False
    assert producer_config(hostile)["enable.idempotence"] is True
    assert producer_config(hostile)["acks"] == "all"


def test_what_the_service_sets_by_itself_cannot_be_passed_through():
    own = {"group.id", "enable.auto.commit", "enable.auto.offset.store", "isolation.level"}
    own |= {"partition.assignment.strategy", "enable.idempotence", "acks"}
    assert own <= set(OWNED)
    assert own <= set(consumer_config(ServiceSettings())) | set(producer_config(ServiceSettings()))


@pytest.mark.parametrize("kind", ["consumer", "producer", "publisher", "asking"])
def test_every_option_is_known_to_the_client(settings, kind, caplog):
    configs = {
        "consumer": consumer_config(settings),
        "producer": producer_config(settings),
        "publisher": publisher_config(settings.kafka_bootstrap_servers, {}),
        "asking": asking_config(settings),
    }
    client = Consumer(configs[kind]) if kind == "consumer" else Producer(configs[kind])
    with caplog.at_level("DEBUG", logger="librdkafka"):
        client.poll(0.2)
    if kind == "consumer":
        client.close()
    assert "CONFWARN" not in caplog.text


def test_each_client_gets_only_options_of_its_kind(caplog):
    options = {
        "session.timeout.ms": "6000",
        "fetch.min.bytes": "1",
        "linger.ms": "7",
        "socket.nagle.disable": "true",
    }
    mixed = ServiceSettings(kafka_bootstrap_servers="127.0.0.1:1", kafka=options)
    reading, writing, asking = consumer_config(mixed), producer_config(mixed), asking_config(mixed)
    assert {"session.timeout.ms", "fetch.min.bytes", "socket.nagle.disable"} <= reading.keys()
    assert "linger.ms" not in reading
    assert {"socket.nagle.disable", "linger.ms"} <= writing.keys()
    assert not {"session.timeout.ms", "fetch.min.bytes"} & writing.keys()
    assert options.keys() & asking.keys() == {"socket.nagle.disable"}
    for kind, config in ((Consumer, reading), (Producer, writing), (AdminClient, asking)):
        client = kind(config)
        client.poll(0)
        if kind is Consumer:
            client.close()
    assert "CONFWARN" not in caplog.text


def test_the_new_group_protocol_leaves_assignment_to_the_broker():
    modern = ServiceSettings(kafka_bootstrap_servers="127.0.0.1:1", kafka={"group.protocol": "consumer"})
    assert "partition.assignment.strategy" not in consumer_config(modern)
    assert "heartbeat.interval.ms" not in consumer_config(modern)
    classic = consumer_config(ServiceSettings())
    assert classic["partition.assignment.strategy"] == "cooperative-sticky"
    assert classic["heartbeat.interval.ms"] == 500
    Consumer(consumer_config(modern)).close()


def test_clients_that_must_find_a_broker_again_forget_none_that_they_knew():
    settings = ServiceSettings(kafka_bootstrap_servers="127.0.0.1:1")
    for config in (producer_config(settings), asking_config(settings)):
        assert config["metadata.recovery.strategy"] == "none"
    chosen = ServiceSettings(kafka={"metadata.recovery.strategy": "rebootstrap"})
    assert asking_config(chosen)["metadata.recovery.strategy"] == "rebootstrap"
