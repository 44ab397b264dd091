"""The codec for every message: exact inverses, and one error type for whatever is not a message."""

from __future__ import annotations

import json
import math
from dataclasses import astuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas import (
    MalformedMessage,
    Reason,
    SequenceRecord,
    decode_dead_letter,
    decode_prediction,
    decode_record,
    encode_dead_letter,
    encode_prediction,
    encode_record,
    json_text,
)
from tests.property.strategies import dead_letters, predictions, records

CODECS = {
    "sequence_record": (records, encode_record, decode_record),
    "prediction": (predictions, encode_prediction, decode_prediction),
    "dead_letter": (dead_letters, encode_dead_letter, decode_dead_letter),
}
DECODING_REASONS = {Reason.MALFORMED, Reason.UNKNOWN_SCHEMA}
SINGLE_OBJECT_HEADER = 10

messages = st.one_of(
    *(
        strategy.map(lambda value, encode=encode, decode=decode: (encode(value), decode))
        for strategy, encode, decode in CODECS.values()
    )
)


def leaves(value: object) -> list[object]:
    """The values in nested tuples."""
    return [leaf for each in value for leaf in leaves(each)] if isinstance(value, tuple) else [value]


def bounded_or_malformed(decode, data: bytes) -> None:
    """Whatever the bytes are: a value, or the one error with a bounded detail of one line."""
    try:
        decode(data)
        return
    except MalformedMessage as malformed:
        error = malformed
    assert error.reason in DECODING_REASONS
    assert 0 < len(error.detail) <= 300
    assert "\n" not in error.detail


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_encode_and_decode_are_exact_inverses(name, data):
    strategy, encode, decode = CODECS[name]
    value = data.draw(strategy)
    wire = encode(value)
    assert decode(wire) == value
    assert encode(decode(wire)) == wire


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_json_is_an_exact_inverse_of_every_value_that_is_finite(name, data):
    strategy, _, _ = CODECS[name]
    kind = name.removeprefix("sequence_")
    encode, decode = (getattr(json_text, f"{verb}_{kind}") for verb in ("encode", "decode"))
    value = data.draw(strategy)
    try:
        text = encode(value)
    except ValueError:
        assert any(isinstance(each, float) and not math.isfinite(each) for each in leaves(astuple(value)))
        return
    assert json_text.looks_like_json(text)
    assert decode(text) == value
    assert encode(decode(text)) == text


@settings(max_examples=400)
@given(records.map(json_text.encode_record), st.data())
def test_a_changed_byte_of_json_gives_a_value_or_the_one_error(text, data):
    changed = bytearray(text)
    changed[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    bounded_or_malformed(json_text.decode_record, bytes(changed))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["id", "sequence", "metadata", "description", "x"]), inner)
        ),
    ),
    st.sampled_from(list(CODECS)),
)
def test_any_json_gives_a_value_or_the_one_error(document, name):
    decode = getattr(json_text, f"decode_{name.removeprefix('sequence_')}")
    bounded_or_malformed(decode, json.dumps(document).encode())


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data(), schema_id=st.integers(0, 2**32 - 1))
def test_confluent_framing_holds_the_same_body(name, data, schema_id):
    strategy, encode, decode = CODECS[name]
    value = data.draw(strategy)
    framed = b"\x00" + schema_id.to_bytes(4, "big") + encode(value)[SINGLE_OBJECT_HEADER:]
    assert decode(framed) == value


@settings(max_examples=400)
@given(messages, st.data())
def test_a_changed_byte_gives_a_value_or_the_one_error(message, data):
    wire, decode = message
    position = data.draw(st.integers(0, len(wire) - 1))
    changed = bytearray(wire)
    changed[position] ^= data.draw(st.integers(1, 255))
    bounded_or_malformed(decode, bytes(changed))


@given(messages, st.data())
def test_a_cut_message_is_malformed(message, data):
    wire, decode = message
    cut = wire[: data.draw(st.integers(0, len(wire) - 1))]
    with pytest.raises(MalformedMessage) as refused:
        decode(cut)
    assert refused.value.reason is Reason.MALFORMED


@given(messages, st.binary(min_size=1, max_size=20))
def test_bytes_after_the_message_are_malformed(message, rest):
    wire, decode = message
    with pytest.raises(MalformedMessage, match=f"{len(rest)} bytes follow"):
        decode(wire + rest)


@settings(max_examples=400)
@given(st.binary(max_size=200), st.sampled_from(list(CODECS)), st.sampled_from(["", "single", "confluent"]))
@example(b"", "sequence_record", "")
def test_random_bytes_give_a_value_or_the_one_error(body, name, framing):
    _, _, decode = CODECS[name]
    marker = {
        "": b"",
        "single": encode_record(SequenceRecord("a", "A"))[:SINGLE_OBJECT_HEADER],
        "confluent": b"\x00\x00\x00\x00\x01",
    }[framing]
    bounded_or_malformed(decode, marker + body)


@given(st.binary(min_size=8, max_size=8), st.binary(max_size=20), st.sampled_from(list(CODECS)))
def test_a_fingerprint_that_was_never_released_is_an_unknown_schema(fingerprint, body, name):
    with pytest.raises(MalformedMessage) as refused:
        CODECS[name][2](b"\xc3\x01" + fingerprint + body)
    assert refused.value.reason is Reason.UNKNOWN_SCHEMA
