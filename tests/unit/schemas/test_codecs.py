"""Codecs: which framing is read, by which schema, and which is written."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from schemas import MalformedMessage, Reason, encode_record, schema_json
from schemas.codecs import (
    VALUE_SCHEMA_ID,
    AvroCodec,
    DependencyUnavailable,
    EitherDecoder,
    JsonCodec,
    TwoFormatCodec,
    confluent_frame,
    header_frame,
    header_schema_id,
)
from tests.support.messages import LETTER, PREDICTION, RECORD

GUID = UUID("2b0c9a7e-1111-2222-3333-0123456789ab")
BODY = encode_record(RECORD)[10:]
KINDS = {"record": RECORD, "prediction": PREDICTION, "dead_letter": LETTER}


class Schemas:
    """A writer-schema look-up that knows today's record under two names."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def __call__(self, schema_id):
        self.asked.append(schema_id)
        if schema_id not in (7, GUID):
            raise LookupError(schema_id)
        return json.loads(schema_json("sequence_record"))


def refused(call) -> MalformedMessage:
    with pytest.raises(MalformedMessage) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "codec",
    [
        AvroCodec(),
        AvroCodec(
            frames=dict.fromkeys(("sequence_record", "prediction", "dead_letter"), confluent_frame(7)),
        ),
        AvroCodec(frames=dict.fromkeys(("sequence_record", "prediction", "dead_letter"), header_frame(GUID))),
        JsonCodec(),
    ],
    ids=["single_object", "confluent", "confluent_header", "json"],
)
def test_what_a_codec_writes_every_decoder_reads(codec, kind):
    value = KINDS[kind]
    encoded = getattr(codec, f"encode_{kind}")(value)
    readers = (codec, EitherDecoder(AvroCodec(), JsonCodec()))
    assert [getattr(reader, f"decode_{kind}")(encoded.value, encoded.headers) for reader in readers] == [
        value,
        value,
    ]


def test_the_framings_byte_for_byte():
    framed = AvroCodec(frames={"sequence_record": confluent_frame(258)}).encode_record(RECORD)
    assert framed == (b"\x00\x00\x00\x01\x02" + BODY, ())
    beside = AvroCodec(frames={"sequence_record": header_frame(GUID)}).encode_record(RECORD)
    assert beside == (BODY, ((VALUE_SCHEMA_ID, b"\x01" + GUID.bytes),))


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([], None),
        ([None], None),
        ([b"\x01" + GUID.bytes], GUID),
        ([b"\x00\x00\x00\x00\x07"], 7),
        (
            [b"\x00\x00\x00\x00\x09", b"\x01" + GUID.bytes],
            GUID,
        ),  # the last one counts, as for Kafka's lastHeader
    ],
    ids=str,
)
def test_the_schema_id_in_a_header(held, expected):
    headers = (("trace", b"1"), *((VALUE_SCHEMA_ID, value) for value in held))
    assert header_schema_id(headers) == expected


@pytest.mark.parametrize(
    "held",
    [b"", b"\x01", b"\x01" + bytes(15), b"\x01" + bytes(17), b"\x02" + bytes(16), b"\x00\x01", b"\x01" * 5],
)
def test_a_header_without_a_schema_id_is_malformed(held):
    for decoder in (AvroCodec(), EitherDecoder(AvroCodec(), JsonCodec())):
        error = refused(lambda d=decoder: d.decode_record(BODY, ((VALUE_SCHEMA_ID, held),)))
        assert error.reason is Reason.MALFORMED
        assert VALUE_SCHEMA_ID in error.detail


@pytest.mark.parametrize("schema_id", [7, GUID], ids=str)
def test_an_id_in_a_header_is_resolved_once_and_the_value_is_the_bare_body(schema_id):
    schemas = Schemas()
    codec = AvroCodec(schemas)
    header = b"\x01" + GUID.bytes if schema_id is GUID else b"\x00\x00\x00\x00\x07"
    for _ in range(3):
        assert codec.decode_record(BODY, ((VALUE_SCHEMA_ID, header),)) == RECORD
    assert schemas.asked == [schema_id]


def test_an_id_in_a_header_that_the_registry_lacks_is_an_unknown_schema():
    error = refused(
        lambda: AvroCodec(Schemas()).decode_record(BODY, ((VALUE_SCHEMA_ID, b"\x01" + bytes(16)),))
    )
    assert error.reason is Reason.UNKNOWN_SCHEMA
    assert "no schema 00000000-0000-0000-0000-000000000000" in error.detail


def test_a_value_that_begins_like_json_is_avro_when_a_header_names_its_schema():
    either = EitherDecoder(AvroCodec(), JsonCodec())
    body = b"{" + bytes(60)  # a body whose first string has -62 bytes
    assert refused(
        lambda: either.decode_record(body, ((VALUE_SCHEMA_ID, b"\x01" + bytes(16)),))
    ).detail.startswith("the sequence_record body")
    assert "not JSON" in refused(lambda: either.decode_record(body, ())).detail


def test_an_outage_passes_through():
    def down(_):
        raise DependencyUnavailable("down")

    for headers, value in (((), b"\x00" * 5 + BODY), (((VALUE_SCHEMA_ID, b"\x01" + bytes(16)),), BODY)):
        with pytest.raises(DependencyUnavailable):
            AvroCodec(down).decode_record(value, headers)


def test_one_codec_reads_and_another_writes():
    codec = TwoFormatCodec(AvroCodec(), JsonCodec())
    assert codec.decode_record(encode_record(RECORD), ()) == RECORD
    assert codec.encode_prediction(PREDICTION) == JsonCodec().encode_prediction(PREDICTION)
    assert codec.encode_dead_letter(LETTER) == JsonCodec().encode_dead_letter(LETTER)
