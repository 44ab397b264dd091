"""The embedded broker with real clients, from this process and from others."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

from consumer.kafka.embedded import EmbeddedBroker, main

ROOT = Path(__file__).parents[2]


def produce(bootstrap: str, topic: str, count: int, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for number in range(count):
        producer.produce(topic, str(number).encode(), b"key", partition, headers=[("a", b"1"), ("a", None)])
    assert producer.flush(10) == 0


def read(bootstrap: str, topic: str, count: int, partition: int = 0) -> list[tuple[bytes, bytes, list]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        found = consumer.consume(count, 10)
        assert [message.error() for message in found] == [None] * count
        return [(message.key(), message.value(), message.headers()) for message in found]
    finally:
        consumer.close()


def test_messages_come_back_as_they_were_sent():
    with EmbeddedBroker({"sequences": 3}) as broker:
        produce(broker.bootstrap_servers, "sequences", 20, partition=2)
        found = read(broker.bootstrap_servers, "sequences", 20, partition=2)
    assert found == [(b"key", str(n).encode(), [("a", b"1"), ("a", None)]) for n in range(20)]


def test_topics_have_the_partitions_that_were_asked_for():
    with EmbeddedBroker({"one": 1, "twelve": 12}) as broker:
        topics = Producer({"bootstrap.servers": broker.bootstrap_servers}).list_topics(timeout=10).topics
        assert {name: len(topic.partitions) for name, topic in topics.items()} == {"one": 1, "twelve": 12}


def test_a_group_gets_its_partitions_at_once_and_keeps_what_it_committed():
    config = {"group.id": "group", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    with EmbeddedBroker({"sequences": 2}) as broker:
        produce(broker.bootstrap_servers, "sequences", 5)
        config["bootstrap.servers"] = broker.bootstrap_servers
        consumer = Consumer(config)
        consumer.subscribe(["sequences"])
        # A broker that waited for more members, as real ones do for 3 s, would give nothing yet.
        first = consumer.poll(2.5)
        assert first is not None
        consumer.commit(first, asynchronous=False)
        consumer.close()
        again = Consumer(config)
        (committed,) = again.committed([TopicPartition("sequences", 0)], timeout=10)
        again.close()
    assert committed.offset == 1


def test_a_message_of_5_mb_is_taken():
    with EmbeddedBroker({"sequences": 1}) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "message.max.bytes": 6_000_000})
        producer.produce("sequences", bytes(5_000_000))
        assert producer.flush(10) == 0
        ((_, value, _),) = read(broker.bootstrap_servers, "sequences", 1)
    assert len(value) == 5_000_000


def test_brokers_are_strangers_to_each_other():
    with EmbeddedBroker({"a": 1}) as one, EmbeddedBroker({"b": 1}) as other:
        assert one.bootstrap_servers != other.bootstrap_servers
        assert set(
            Producer({"bootstrap.servers": other.bootstrap_servers}).list_topics(timeout=10).topics
        ) == {"b"}


def test_it_is_gone_after_its_block():
    with EmbeddedBroker({"a": 1}) as broker:
        address = broker.bootstrap_servers
    with pytest.raises(RuntimeError, match="only inside its with block"):
        _ = broker.bootstrap_servers
    with pytest.raises(KafkaException):
        Producer({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=0.5)


def test_it_can_be_opened_again():
    broker = EmbeddedBroker({"a": 1})
    for _ in range(2):
        with broker:
            produce(broker.bootstrap_servers, "a", 1)
            assert len(read(broker.bootstrap_servers, "a", 1)) == 1


INTERRUPTED = """
import os, signal
from confluent_kafka import Producer
from consumer.kafka.embedded import EmbeddedBroker

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda *_: None)
with EmbeddedBroker({"a": 1}) as broker:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "message.timeout.ms": 5000})
    # Python does the same while it starts a process: the kernel then looks for another thread.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)
        producer.produce("a", b"value")
        assert producer.flush(10) == 0
    del producer
print("closed")
"""


def test_signals_do_not_reach_its_threads():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


@pytest.mark.parametrize("partitions", [0, -1])
def test_a_topic_needs_a_partition(partitions):
    with pytest.raises(ValueError, match="at least 1 partition"):
        EmbeddedBroker({"a": partitions})


def test_a_topic_without_partitions_is_a_usage_error():
    with pytest.raises(SystemExit) as ended:
        main(["--topic", "sequences"])
    assert ended.value.code == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_a_process_of_its_own_it_serves_others_until_it_is_told_to_stop(number):
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "consumer.kafka.embedded",
            "--topic",
            "sequences:4",
            "--topic",
            "predictions:1",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        ready = json.loads(child.stdout.readline())
        assert ready["event"] == "ready"
        produce(ready["bootstrap"], "sequences", 3, partition=3)
        assert [value for _, value, _ in read(ready["bootstrap"], "sequences", 3, partition=3)] == [
            b"0",
            b"1",
            b"2",
        ]
        child.send_signal(number)
        assert child.wait(10) == 0
        assert child.communicate() == (b"", b"")
    finally:
        child.kill()
        child.wait()
