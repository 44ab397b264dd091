"""What a prediction and a dead letter carry of the message that they answer."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from consumer.delivery.answers import (
    CUT_KEY_BYTES,
    CUT_VALUE_BYTES,
    REASON_HEADER,
    SOURCE_HEADER,
    OutgoingBuilder,
)
from consumer.ledger import Entry
from schemas import Provenance, Reason, decode_dead_letter, decode_prediction
from tests.support.factories import message, refused, scored

STAMP = Provenance("nano", "ab" * 32, 500, "packed", "sdpa", "fp32", "0.1.0")
HEADERS = (("trace", b"1"), ("trace", b"2"), ("empty", None))


@pytest.fixture
def builder() -> OutgoingBuilder:
    return OutgoingBuilder("predictions", "sequences.dlq", "group", STAMP, now_ms=lambda: 123)


def test_a_prediction_carries_key_headers_timestamp_and_source(builder):
    out = builder.build(Entry(message(7, number=2, key=b"k", headers=HEADERS), scored(10, 20, record_id="x")))
    assert (out.topic, out.key, out.timestamp_ms) == ("predictions", b"k", 1_700_000_000_000)
    assert out.headers == (*HEADERS, (SOURCE_HEADER, b"sequences/2/7"))
    prediction = decode_prediction(out.value)
    assert (prediction.id, prediction.verdict, len(prediction.chunks)) == ("x", "virus", 2)
    assert prediction.provenance.source_topic == "sequences"
    assert (prediction.provenance.source_partition, prediction.provenance.source_offset) == (2, 7)
    assert prediction.provenance.model_id == "nano"


def test_a_record_without_open_frames_has_a_prediction_that_says_so(builder):
    prediction = decode_prediction(builder.build(Entry(message(1), scored())).value)
    assert (prediction.verdict, prediction.virus_score, prediction.others_score) == (
        "no_open_frame",
        None,
        None,
    )


def test_a_dead_letter_carries_the_raw_message_and_the_reason(builder):
    raw = message(7, value=b"\x00raw", key=None, headers=HEADERS, timestamp_ms=None)
    out = builder.build(Entry(raw, refused("bad bytes")))
    assert (out.topic, out.key, out.timestamp_ms) == ("sequences.dlq", None, None)
    assert out.headers == (*HEADERS, (SOURCE_HEADER, b"sequences/0/7"), (REASON_HEADER, b"malformed"))
    letter = decode_dead_letter(out.value)
    assert (letter.value, letter.key, letter.reason, letter.detail) == (
        b"\x00raw",
        None,
        Reason.MALFORMED,
        "bad bytes",
    )
    assert (letter.group_id, letter.failed_at_ms, letter.source_offset) == ("group", 123, 7)


def test_a_dead_letter_is_cut_down_until_it_fits_anywhere(builder):
    raw = message(1, value=b"x" * 1_000_000, key=b"k" * 600_000, headers=(("h", b"y" * 300_000),))
    entry = Entry(raw, refused())
    whole = decode_dead_letter(builder.build(entry).value)
    assert builder.mend(entry, KafkaError.MSG_SIZE_TOO_LARGE)
    shorter = decode_dead_letter(builder.build(entry).value)
    assert (len(shorter.value), shorter.truncated, len(shorter.key)) == (CUT_VALUE_BYTES, True, 600_000)
    assert builder.mend(entry, KafkaError.MSG_SIZE_TOO_LARGE)
    last = builder.build(entry)
    letter = decode_dead_letter(last.value)
    assert (letter.value, len(letter.key), letter.truncated) == (None, CUT_KEY_BYTES, True)
    assert letter.value_sha256 == shorter.value_sha256 == whole.value_sha256
    assert last.key is None
    assert last.headers == ((SOURCE_HEADER, b"sequences/0/1"), (REASON_HEADER, b"malformed"))
    assert last.size < 20_000
    assert not builder.mend(entry, KafkaError.MSG_SIZE_TOO_LARGE)


def test_a_prediction_too_large_becomes_a_dead_letter_with_the_raw_message(builder):
    entry = Entry(message(1, value=b"raw"), scored(10))
    assert builder.mend(entry, KafkaError.MSG_SIZE_TOO_LARGE)
    letter = decode_dead_letter(builder.build(entry).value)
    assert (letter.reason, letter.stage, letter.value) == (Reason.PREDICTION_TOO_LARGE, "deliver", b"raw")
    assert not letter.truncated


def test_the_partition_number_is_kept_only_between_equal_counts(builder):
    entry = Entry(message(1, number=3), scored(10))
    assert builder.build(entry).partition is None, "counts not known"
    builder.set_partition_counts({"sequences": 4, "predictions": 4, "sequences.dlq": 2})
    assert builder.build(entry).partition == 3
    assert builder.build(Entry(message(1, number=3), refused())).partition is None


def test_an_unfinished_entry_has_no_answer(builder):
    with pytest.raises(ValueError, match="not finished"):
        builder.build(Entry(message(1)))


def test_a_timestamp_that_the_broker_refuses_is_left_to_the_broker(builder):
    entry = Entry(message(1), scored(10))
    assert builder.mend(entry, KafkaError.INVALID_TIMESTAMP)
    out = builder.build(entry)
    assert out.timestamp_ms is None
    assert (SOURCE_HEADER, b"sequences/0/1") in out.headers
    assert not builder.mend(entry, KafkaError.INVALID_TIMESTAMP), "nothing more can be done"
