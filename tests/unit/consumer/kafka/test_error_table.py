"""The table of Kafka errors: every row by what the service's readers do about it, and codes without a row by flags.

What the two delivery guarantees do about each row is in tests/unit/consumer/delivery/test_rejections.py.
"""

from __future__ import annotations

from collections import Counter

import pytest
from confluent_kafka import KafkaError

from consumer.errors import ExitCode, KafkaFatal, ServiceError
from consumer.kafka.error_table import ROWS, Kind, Row, classify, connection_cure, consumer_error

NO_ROW = KafkaError.POLICY_VIOLATION
READING: dict[Kind, tuple[type[ServiceError], str] | None] = {
    Kind.RETRIABLE: None,
    Kind.TOO_LARGE: None,
    Kind.INVALID_RECORD: None,
    Kind.PURGED: None,
    Kind.REBALANCING: None,
    Kind.UNKNOWN_TOPIC: (ServiceError, "the input topic does not exist any more"),
    Kind.NOT_IN_METADATA: None,
    Kind.UNKNOWN_PARTITION: None,
    Kind.UNAUTHORIZED: (ServiceError, "grant it"),
    Kind.AUTHENTICATION: (ServiceError, "SASL_PASSWORD"),
    Kind.TLS: None,
    Kind.NO_OFFSET: (ServiceError, "VIRNUCPRO_KAFKA_AUTO_OFFSET_RESET"),
    Kind.FENCED: None,
    Kind.NO_TRANSACTION: None,
    Kind.FATAL: (KafkaFatal, "restart the service"),
}


def name(row: Row) -> str:
    return KafkaError(row.code).name()


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_what_the_service_does_about_an_error_that_poll_returned(row):
    ending = consumer_error(KafkaError(row.code))
    if READING[row.kind] is None:
        assert ending is None, "librdkafka retries"
    else:
        kind, words = READING[row.kind]
        assert type(ending) is kind
        assert words in str(ending)
        assert row.cure in str(ending)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_row_is_found_whatever_flags_the_error_has(row):
    for flags in ((False, False, False), (False, True, False), (False, False, True)):
        problem = classify(KafkaError(row.code, "text", *flags))
        assert (problem.kind, problem.text) == (row.kind, "text")
        assert (problem.retriable, problem.requires_abort) == flags[1:]
        assert problem.cure


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_fatal_flag_ends_the_reader_whatever_the_code(row):
    ending = consumer_error(KafkaError(row.code, "gone", True))
    assert isinstance(ending, KafkaFatal)
    assert ending.exit_code is ExitCode.KAFKA_FATAL


def test_each_code_has_one_row():
    assert max(Counter(row.code for row in ROWS).values()) == 1


def test_an_error_that_a_person_must_cure_says_how():
    passing = {Kind.RETRIABLE, Kind.PURGED, Kind.REBALANCING}
    assert {row.kind for row in ROWS if not row.cure} == passing


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ((True, True, True), Kind.FATAL),
        ((False, True, True), Kind.ABORTABLE),
        ((False, True, False), Kind.RETRIABLE),
        ((False, False, False), Kind.UNCLASSIFIED),
    ],
)
def test_a_code_without_a_row_is_classified_by_its_flags(flags, kind):
    assert classify(KafkaError(NO_ROW, "text", *flags)).kind is kind


def test_an_unclassified_error_of_the_consumer_is_logged_and_not_an_end():
    assert consumer_error(KafkaError(NO_ROW)) is None


@pytest.mark.parametrize(
    "words",
    [
        "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42",
        "Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: SSL alert number 116",
        "SSL handshake failed: error:0A000418:SSL routines::tlsv1 alert unknown ca: SSL alert number 48",
    ],
)
@pytest.mark.parametrize("code", [KafkaError._TRANSPORT, KafkaError._SSL])
def test_a_broker_that_refuses_this_clients_certificate(code, words):
    assert "VIRNUCPRO_KAFKA_SSL_CERTIFICATE_LOCATION" in (connection_cure(KafkaError(code, words)) or "")


def test_a_connection_that_only_breaks_has_no_cure():
    assert connection_cure(KafkaError(KafkaError._TRANSPORT, "Receive failed: Disconnected")) is None
    assert "CA_LOCATION" in (
        connection_cure(KafkaError(KafkaError._SSL, "SSL routines::certificate verify failed")) or ""
    )
