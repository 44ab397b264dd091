"""Header names of any bytes, which Kafka takes, through the service and through `watch`: the client breaks on them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from consumer.kafka.embedded import EmbeddedBroker
from consumer.kafka.headers import headers_of
from schemas import SequenceRecord, decode_prediction, encode_prediction, encode_record
from tests.integration.test_cli_watch import prediction
from tests.support.harness import NoopServe, committed, read, serving, virnucpro, wait_until
from tests.support.raw_producer import produce_raw

NAMES = (
    [b"\xff\xfe"],
    [b"ok", b"caf\xe9"],
    [b"\xed\xa0\x80", b"ok"],
    [b"\xc3"],
    [b"ok", b"\xf5\x80\x80\x80", b"ok"],
)
"""Headers with a name that is not UTF-8: alone, last, a surrogate, cut short, between others."""
RAW_CLIENT = """
import sys
from confluent_kafka import Consumer, TopicPartition
consumer = Consumer({"bootstrap.servers": sys.argv[1], "group.id": "raw"})
consumer.assign([TopicPartition("sequences", 0, 0)])
for _ in range(40):
    while (message := consumer.poll(1)) is None or message.error():
        pass
    try:
        list(message.headers() or ())
    except (SystemError, UnicodeDecodeError):
        pass
"""


@pytest.fixture
def bootstrap() -> Iterator[str]:
    with EmbeddedBroker({"sequences": 1, "predictions": 1, "sequences.dlq": 1}) as broker:
        yield broker.bootstrap_servers


def in_order(bootstrap: str, topic: str, count: int) -> list[Message]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[Message] = []
    while len(found) < count:
        message = consumer.poll(10)
        assert message is not None, f"{len(found)} of {count} messages"
        assert message.error() is None
        found.append(message)
    consumer.close()
    return found


def test_the_client_itself_leaves_an_error_pending(bootstrap):
    """When this fails the client has been fixed, and consumer/kafka/headers.py may call `Message.headers()` itself."""
    produce_raw(bootstrap, "sequences", [(b"v", [b"\xff\xfe"])] * 40)
    done = subprocess.run(
        [sys.executable, "-c", RAW_CLIENT, bootstrap], capture_output=True, timeout=60, check=False
    )
    assert done.returncode != 0, "each error was raised where it could be caught"


def test_headers_that_the_client_cannot_give_are_none_however_often(bootstrap):
    sent = [(b"v", NAMES[i % len(NAMES)]) for i in range(50)]
    for number in range(0, 100, 2):
        sent.insert(number, (b"v", [b"a", b"a", "caf\u00e9".encode()]))
    produce_raw(bootstrap, "sequences", sent)
    found = [headers_of(message) for message in in_order(bootstrap, "sequences", 100)]
    assert found == [(("a", b"1"), ("a", b"1"), ("café", b"1")), None] * 50


def test_headers_come_in_their_order_with_their_nulls_and_duplicates(bootstrap):
    headers = [("a", b"1"), ("b", None), ("a", b""), ("a", "text")]
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce("sequences", b"v", headers=headers)
    producer.produce("sequences", b"v")
    assert producer.flush(10) == 0
    assert [headers_of(message) for message in in_order(bootstrap, "sequences", 2)] == [
        (("a", b"1"), ("b", None), ("a", b""), ("a", b"text")),
        (),
    ]


def test_the_service_answers_such_records_without_their_headers_and_lives_on(tmp_path):
    def value(record_id: str) -> bytes:
        return encode_record(SequenceRecord(record_id, "ACGTACGTACGTACGTAAATTTGGGCCC"))

    with serving(tmp_path / "serve.log", kind=NoopServe) as serve:
        produce_raw(
            serve.bootstrap, "sequences", [(value(f"odd{i}"), NAMES[i % len(NAMES)]) for i in range(40)]
        )
        produce_raw(serve.bootstrap, "sequences", [(b"junk", NAMES[0])])
        produce_raw(serve.bootstrap, "sequences", [(value("plain"), [b"a"])])
        answers = read(serve.bootstrap, "predictions", lambda found: len(found) >= 41)
        (letter,) = read(serve.bootstrap, "sequences.dlq", lambda found: bool(found))
        wait_until(lambda: committed(serve.bootstrap) == 42, "every offset committed")
        assert serve.stop() == 0
    names = {decode_prediction(m.value()).id: [name for name, _ in m.headers()] for m in answers}
    assert names == {f"odd{i}": ["vnp-source"] for i in range(40)} | {"plain": ["a", "vnp-source"]}
    assert "a" not in dict(letter.headers())
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


def test_watch_shows_such_messages_without_their_headers(bootstrap):
    produce_raw(
        bootstrap,
        "predictions",
        [(encode_prediction(prediction(f"odd{i}")), NAMES[i % len(NAMES)]) for i in range(40)]
        + [(encode_prediction(prediction("plain")), [b"a"])],
    )
    done = virnucpro("watch", "--bootstrap", bootstrap, "--json", "--count", "41")
    assert done.returncode == 0, done.stderr
    shown = {line["id"]: line["kafka"]["headers"] for line in map(json.loads, done.stdout.splitlines())}
    assert shown == {f"odd{i}": [] for i in range(40)} | {"plain": [["a", "1"]]}
    assert done.stderr.count(b"is shown without its headers") == 40
    assert virnucpro("watch", "--bootstrap", bootstrap, "--count", "41").returncode == 0
