"""What `watch` and `publish` do about each row of the table of Kafka errors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.cli.error_messages import UserError
from consumer.cli.topics.publisher import Publisher
from consumer.cli.topics.reading import Reader
from consumer.kafka.error_table import ROWS, Kind, Row
from schemas import SequenceRecord


def name(row: Row) -> str:
    return KafkaError(row.code).name()


class FailingConsumer:
    """Gives one error in place of each message."""

    def __init__(self, error: KafkaError) -> None:
        self._error = error

    def assign(self, partitions) -> None:
        assert partitions

    def poll(self, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(error=lambda: self._error)


class FailingProducer:
    """Refuses every message, when it is produced or by its report."""

    def __init__(self, error: KafkaError, at_once: bool) -> None:
        self._error, self._at_once = error, at_once
        self._reports = []

    def produce(self, topic, value, key, partition, headers, on_delivery) -> None:
        if self._at_once:
            raise KafkaException(self._error)
        self._reports.append(lambda: on_delivery(self._error, SimpleNamespace(key=lambda: key)))

    def poll(self, timeout: float) -> None:
        while self._reports:
            self._reports.pop()()


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_reader_ends_where_the_topic_cannot_be_read_and_waits_otherwise(row):
    reader = Reader(FailingConsumer(KafkaError(row.code)), {"predictions": 1}, "now", lambda: " (why)")
    needless = row.code == KafkaError.GROUP_AUTHORIZATION_FAILED
    if row.kind in (Kind.UNAUTHORIZED, Kind.UNKNOWN_TOPIC, Kind.FATAL) and not needless:
        with pytest.raises(UserError, match=r"cannot be read .*\(why\): check its name and your rights"):
            reader.read(0)
    else:
        assert reader.read(0) is None


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_publisher_names_a_rejected_record_and_ends_where_its_client_cannot_go_on(row, at_once, capsys):
    publisher = Publisher(FailingProducer(KafkaError(row.code), at_once), "sequences", stall_s=1.0)
    record = SequenceRecord("r1", "ACGT")
    if row.kind is Kind.FATAL:
        with pytest.raises(UserError, match=r"the Kafka producer cannot go on .* publish again from 'r1' on"):
            publisher.publish(record)
        return
    if row.kind is Kind.UNAUTHORIZED:
        with pytest.raises(
            UserError, match=r"refuses record 'r1' .*: grant this client WRITE on sequences, then"
        ):
            publisher.publish(record)
        return
    publisher.publish(record)
    publisher.finish()
    assert (publisher.failed, publisher.delivered) == (1, 0)
    (failure,) = capsys.readouterr().err.splitlines()
    cure = row.cure if row.kind is Kind.TOO_LARGE else KafkaError(row.code).str()
    assert failure.startswith("virnucpro: record 'r1' was not delivered: ")
    assert cure in failure
