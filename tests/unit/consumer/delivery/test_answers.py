"""What a prediction and a dead letter carry of the message that they answer."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.delivery.answers import (
    CUT_KEY_BYTES,
    CUT_VALUE_BYTES,
    MIN_KEY_BYTES,
    REASON_HEADER,
    REPLAYS_HEADER,
    SCHEMA_ID_HEADER,
    SOURCE_HEADER,
    Answer,
    AnswerBuilder,
    replays_of,
)
from consumer.kafka.error_table import Kind
from consumer.ledger import Entry
from schemas import Reason, decode_dead_letter, decode_prediction
from schemas.codecs import VALUE_SCHEMA_ID, AnswerEncoder, AvroCodec, Encoded, header_frame
from tests.support.factories import STAMP, message, refused, scored

HEADERS = (("trace", b"1"), ("trace", b"2"), ("empty", None))


def new_builder(codec: AnswerEncoder | None = None) -> AnswerBuilder:
    return AnswerBuilder(
        "predictions", "sequences.dlq", "group", STAMP, codec or AvroCodec(), now_ms=lambda: 123
    )


@pytest.fixture
def builder() -> AnswerBuilder:
    return new_builder()


def test_a_prediction_carries_key_headers_timestamp_and_source(builder):
    out = builder.build(
        Answer(message(7, number=2, key=b"k", headers=HEADERS), scored(10, 20, record_id="x"))
    )
    assert (out.topic, out.key, out.timestamp_ms) == ("predictions", b"k", 1_700_000_000_000)
    assert out.headers == (*HEADERS, (SOURCE_HEADER, b"sequences/2/7"))
    prediction = decode_prediction(out.value)
    assert (prediction.id, prediction.verdict, len(prediction.chunks)) == ("x", "virus", 2)
    assert prediction.provenance.source_topic == "sequences"
    assert (prediction.provenance.source_partition, prediction.provenance.source_offset) == (2, 7)
    assert prediction.provenance.model_id == "nano"
    # Two chunks with scores 0.25 and 0.75.
    assert (prediction.call, prediction.tier, prediction.weighted_delta) == ("Viral", "review", 0.5)
    assert (prediction.n_chunks, prediction.n_confident_viral, prediction.viral_proportion) == (2, 0, 0.0)


def test_a_record_without_open_frames_has_a_prediction_that_says_so(builder):
    prediction = decode_prediction(builder.build(Answer(message(1), scored())).value)
    assert (prediction.verdict, prediction.virus_score, prediction.others_score) == (
        "no_open_frame",
        None,
        None,
    )
    assert (prediction.call, prediction.tier, prediction.n_chunks) == (None, None, None)


def test_a_dead_letter_carries_the_raw_message_and_the_reason(builder):
    raw = message(7, value=b"\x00raw", key=None, headers=HEADERS, timestamp_ms=None)
    out = builder.build(Answer(raw, refused("bad bytes")))
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


GUID = b"\x01" + bytes(range(16))


def test_the_schema_id_of_the_input_does_not_name_the_schema_of_the_answer(builder):
    """A reader takes the header for that of the value: with the input's it would decode the answer."""
    raw = message(7, headers=(("a", b"1"), (VALUE_SCHEMA_ID, GUID), ("__key_schema_id", GUID)))
    kept = (("a", b"1"), ("__key_schema_id", GUID), (SOURCE_HEADER, b"sequences/0/7"))
    assert builder.build(Answer(raw, scored(10))).headers == kept
    assert builder.build(Answer(raw, refused())).headers == (
        *kept,
        (REASON_HEADER, b"malformed"),
        (SCHEMA_ID_HEADER, GUID),
    )
    own = new_builder(AvroCodec(frames={"prediction": header_frame(UUID(int=5))}))
    assert own.build(Answer(raw, scored(10))).headers == (
        *kept,
        (VALUE_SCHEMA_ID, b"\x01" + UUID(int=5).bytes),
    )


@pytest.mark.parametrize("held", [None, b"x" * 18, b"x" * 100_000])
def test_a_schema_id_that_is_none_is_not_kept(builder, held):
    out = builder.build(Answer(message(7, headers=((VALUE_SCHEMA_ID, held),)), refused()))
    assert out.headers == ((SOURCE_HEADER, b"sequences/0/7"), (REASON_HEADER, b"malformed"))


def test_how_often_a_record_was_replayed_goes_to_its_dead_letter_also_when_that_is_cut_and_to_no_prediction(
    builder,
):
    raw = message(1, value=b"x" * 1_000_000, headers=(*HEADERS, (REPLAYS_HEADER, b"2"), ("vnp-other", b"x")))
    answer = Answer(raw, refused())
    for _ in range(3):
        headers = builder.build(answer).headers
        assert headers[-1] == (REPLAYS_HEADER, b"2")
        assert replays_of(headers) == 2
        builder.shrink(answer)
    assert builder.build(Answer(raw, scored())).headers == (*HEADERS, (SOURCE_HEADER, b"sequences/0/1"))


@pytest.mark.parametrize("value", [None, b"", b"-1", b"many", b"1e9", b"9" * 5000, "٣".encode()])
def test_a_forged_count_of_replays_counts_for_nothing(builder, value):
    raw = message(1, headers=((REPLAYS_HEADER, value),))
    assert replays_of(raw.headers) == 0
    assert REPLAYS_HEADER not in dict(builder.build(Answer(raw, refused())).headers)


def test_a_dead_letter_is_cut_down_until_it_fits_anywhere(builder):
    raw = message(1, value=b"x" * 1_000_000, key=b"k" * 600_000, headers=(("h", b"y" * 300_000),))
    answer = Answer(raw, refused())
    whole = decode_dead_letter(builder.build(answer).value)
    assert builder.shrink(answer)
    shorter = decode_dead_letter(builder.build(answer).value)
    assert (len(shorter.value), shorter.truncated, len(shorter.key)) == (CUT_VALUE_BYTES, True, 600_000)
    assert builder.shrink(answer)
    bare = builder.build(answer)
    assert bare.headers == ((SOURCE_HEADER, b"sequences/0/1"), (REASON_HEADER, b"malformed"))
    assert bare.key == raw.key, "a compacted topic takes no message without a key"
    letter = decode_dead_letter(bare.value)
    assert (letter.value, letter.key, letter.truncated) == (None, raw.key, True)
    assert letter.value_sha256 == shorter.value_sha256 == whole.value_sha256
    for kept in (CUT_KEY_BYTES, MIN_KEY_BYTES):
        assert builder.shrink(answer)
        bare = builder.build(answer)
        assert bare.key == decode_dead_letter(bare.value).key == raw.key[:kept]
    assert bare.size < 2_000
    assert not builder.shrink(answer)


@given(
    value=st.none() | st.integers(0, 2 * CUT_VALUE_BYTES).map(bytes),
    key=st.none() | st.integers(0, 2 * CUT_KEY_BYTES).map(bytes),
    names=st.lists(st.text(max_size=20), max_size=3),
)
def test_each_cut_makes_a_dead_letter_smaller_and_keeps_a_key(value, key, names):
    builder = new_builder()
    raw = message(1, value=value, key=key, headers=tuple((name, b"x" * 9) for name in names))
    answer = Answer(raw, refused())
    sizes = [builder.build(answer).size]
    while builder.shrink(answer):
        out = builder.build(answer)
        sizes.append(out.size)
        assert (out.key is None) == (key is None)
        assert (out.key or b"") == (key or b"")[: len(out.key or b"")]
        assert len(out.key or b"") >= min(len(key or b""), MIN_KEY_BYTES)
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[-1] < 2_000


@given(
    names=st.lists(
        st.sampled_from([SOURCE_HEADER, REASON_HEADER, "vnp-", "vnp", "VNP-source", ""])
        | st.text(max_size=8).map(lambda rest: f"vnp-{rest}")
        | st.text(max_size=12),
        max_size=12,
    ),
    values=st.lists(st.none() | st.binary(max_size=8), min_size=12, max_size=12),
    is_scored=st.booleans(),
)
def test_an_answer_has_one_source_whatever_headers_the_input_has(names, values, is_scored):
    """Also of a dead letter that is published again, and that carries the headers of the first round."""
    headers = tuple(zip(names, values, strict=False))
    raw = message(7, number=2, headers=headers)
    out = new_builder().build(Answer(raw, scored(10) if is_scored else refused()))
    ours = [(name, value) for name, value in out.headers if name.startswith("vnp-")]
    expected = [(SOURCE_HEADER, b"sequences/2/7")]
    assert ours == (expected if is_scored else [*expected, (REASON_HEADER, b"malformed")])
    kept = [header for header in headers if not header[0].startswith("vnp-")]
    assert [header for header in out.headers if header not in ours] == kept


class FramedCodec(AvroCodec):
    """A codec whose readers need a header to decode a value."""

    def encode_prediction(self, prediction):
        return Encoded(b"prediction", (("schema", b"7"),))

    def encode_dead_letter(self, letter):
        return Encoded(b"letter", (("schema", b"8"),))


def test_the_codec_s_headers_follow_the_service_s_own_and_outlast_every_cut():
    builder = new_builder(FramedCodec())
    out = builder.build(Answer(message(1, headers=HEADERS), scored(10)))
    assert (out.value, out.headers) == (
        b"prediction",
        (*HEADERS, (SOURCE_HEADER, b"sequences/0/1"), ("schema", b"7")),
    )
    letter = Answer(message(1, headers=HEADERS), refused())
    assert builder.build(letter).headers[-1] == ("schema", b"8")
    assert builder.shrink(letter)
    assert builder.build(letter).headers[-1] == ("schema", b"8")


def test_a_prediction_too_large_becomes_a_dead_letter_with_the_raw_message(builder):
    answer = Answer(message(1, value=b"raw"), scored(10))
    assert builder.amend(answer, Kind.TOO_LARGE)
    letter = decode_dead_letter(builder.build(answer).value)
    assert (letter.reason, letter.stage, letter.value) == (Reason.PREDICTION_TOO_LARGE, "deliver", b"raw")
    assert not letter.truncated


def test_the_partition_number_is_kept_only_between_equal_counts(builder):
    answer = Answer(message(1, number=3), scored(10))
    assert builder.build(answer).partition is None, "counts not known"
    builder.set_partition_counts({"sequences": 4, "predictions": 4, "sequences.dlq": 2})
    assert builder.build(answer).partition == 3
    assert builder.build(Answer(message(1, number=3), refused())).partition is None


def test_an_unfinished_entry_has_no_answer():
    with pytest.raises(ValueError, match="not finished"):
        Answer.of(Entry(message(1)))


def test_a_timestamp_that_the_broker_refuses_is_left_to_the_broker(builder):
    answer = Answer(message(1), scored(10))
    assert builder.amend(answer, Kind.INVALID_RECORD)
    out = builder.build(answer)
    assert out.timestamp_ms is None
    assert (SOURCE_HEADER, b"sequences/0/1") in out.headers
    assert not builder.amend(answer, Kind.INVALID_RECORD), "nothing more can be done"
