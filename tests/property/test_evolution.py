"""Every released version in every framing is understood today, and today's answers by readers of every version."""

from __future__ import annotations

import json
from io import BytesIO
from uuid import UUID

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from schemas import SCHEMA_NAMES, json_text
from schemas.codecs import VALUE_SCHEMA_ID, AvroCodec, EitherDecoder, JsonCodec, confluent_frame, header_frame
from schemas.contracts import contract, releases
from tests.property.strategies import data_of, dead_letters, predictions, records

GUID = UUID("2b0c9a7e-1111-2222-3333-0123456789ab")
KINDS = {
    "sequence_record": ("record", records),
    "prediction": ("prediction", predictions),
    "dead_letter": ("dead_letter", dead_letters),
}
VERSIONS = [(name, release) for name in SCHEMA_NAMES for release in releases(name)]
FRAMINGS = ("single_object", "confluent", "confluent_header", "header_with_an_id", "json")


def name_of(value):
    return f"v{value.version}" if hasattr(value, "version") else str(value)


def written(release, datum, framing):
    """A message as a publisher of that version writes it: value and headers."""
    if framing == "json":
        _, to_json = json_text.converters_of(parse_schema(release.schema))
        return json.dumps(to_json(datum, "")).encode(), ()
    out = BytesIO()
    schemaless_writer(out, parse_schema(release.schema), datum)
    body = out.getvalue()
    return {
        "single_object": (b"\xc3\x01" + release.fingerprint + body, ()),
        "confluent": (b"\x00\x00\x00\x00\x07" + body, ()),
        "confluent_header": (body, ((VALUE_SCHEMA_ID, b"\x01" + GUID.bytes),)),
        "header_with_an_id": (body, ((VALUE_SCHEMA_ID, b"\x00\x00\x00\x00\x07"),)),
    }[framing]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(("name", "release"), VERSIONS, ids=name_of)
@given(data=st.data())
def test_today_reads_what_every_version_wrote(name, release, framing, data):
    def writer_schema(schema_id):
        return {7: release.schema, GUID: release.schema}[schema_id]

    datum = data.draw(data_of(release.schema))
    value, headers = written(release, datum, framing)
    decoder = EitherDecoder(AvroCodec(writer_schema), JsonCodec())
    kind, _ = KINDS[name]
    read = getattr(decoder, f"decode_{kind}")(value, headers)
    known = {each["name"] for each in contract(name).current["fields"]}
    for field in (
        datum.keys() & known & {"id", "sequence", "length", "detail", "metadata", "value", "verdict"}
    ):
        assert getattr(read, field) == datum[field]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(
    ("name", "release"), [each for each in VERSIONS if each[0] != "sequence_record"], ids=name_of
)
@given(data=st.data())
def test_readers_of_every_version_read_what_today_writes(name, release, framing, data):
    kind, values = KINDS[name]
    value = data.draw(values)
    frames = {"confluent": confluent_frame(7), "confluent_header": header_frame(GUID)}
    if framing == "json":
        try:
            encoded = getattr(JsonCodec(), f"encode_{kind}")(value)
        except ValueError:  # a score that is not finite
            return
        from_json, _ = json_text.converters_of(parse_schema(release.schema))
        datum = from_json(json.loads(encoded.value), "")
    else:
        codec = AvroCodec(frames={name: frames[framing]} if framing in frames else {})
        encoded = getattr(codec, f"encode_{kind}")(value)
        start = {"single_object": 10, "header_with_an_id": 10, "confluent": 5, "confluent_header": 0}[framing]
        datum = schemaless_reader(
            BytesIO(encoded.value[start:]), contract(name).current, parse_schema(release.schema)
        )
    assert datum.keys() == {each["name"] for each in release.schema["fields"]}
    for field in datum.keys() & {"id", "length", "detail", "value", "verdict"}:
        assert datum[field] == getattr(value, field)


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_the_last_release_is_the_current_schema(name):
    assert releases(name)[-1].fingerprint == contract(name).fingerprint
    assert [release.version for release in releases(name)] == list(range(1, len(releases(name)) + 1))
