"""The contract: what is on the wire byte for byte, which versions are read, what hostile bytes get."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from schemas import (
    SCHEMA_NAMES,
    ChunkPrediction,
    DeadLetter,
    FrameScore,
    MalformedMessage,
    Prediction,
    Provenance,
    Reason,
    SequenceRecord,
    Verdict,
    decode_dead_letter,
    decode_prediction,
    decode_record,
    encode_dead_letter,
    encode_prediction,
    encode_record,
    schema_json,
)
from schemas.contracts import UnusableSchema, contract, load_contract, parse_writer, schema_fingerprint
from tests.support.messages import LETTER, PREDICTION, RECORD

HISTORY = Path(__file__).parents[3] / "schemas" / "history"
RELEASED = {
    ("sequence_record", "v1"): "39977e7d3f7b510e",
    ("prediction", "v1"): "18259f46e6bc846b",
    ("prediction", "v2"): "1f7333c26c8ffedb",
    ("dead_letter", "v1"): "a583a74df055f145",
}
"""Every version ever released. A line may be added here, never changed: messages with it are in topics."""

OF_VERSION_1 = Prediction(*(getattr(PREDICTION, field.name) for field in fields(Prediction)[:7]))
"""The same as it comes from a service that has no contig rule."""
EXAMPLES = {
    "sequence_record": (RECORD, encode_record, decode_record),
    "prediction": (PREDICTION, encode_prediction, decode_prediction),
    "dead_letter": (LETTER, encode_dead_letter, decode_dead_letter),
}


def refused(data: bytes | None, decode=decode_record, writer_schema=None) -> MalformedMessage:
    with pytest.raises(MalformedMessage) as caught:
        decode(data, writer_schema)
    return caught.value


def varint(value: int) -> bytes:
    """An Avro long: zigzag, then base 128, least significant first."""
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


def string(value: str) -> bytes:
    return varint(len(value.encode())) + value.encode()


def crc64_avro(data: bytes) -> int:
    """The specification's own fingerprint algorithm, bit by bit."""
    empty = 0xC15D213AA4D7A795
    value = empty
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (empty if value & 1 else 0)
    return value


# ---- the wire --------------------------------------------------------------------------------------------------


def test_a_record_on_the_wire_byte_for_byte():
    header = b"\xc3\x01" + bytes.fromhex(RELEASED["sequence_record", "v1"])
    body = string("seq1") + string("ACGT") + varint(1) + string("a virus")
    body += varint(1) + string("run") + string("7") + varint(0)
    assert encode_record(RECORD) == header + body
    bare = string("x") + string("A") + varint(0) + varint(0)
    assert encode_record(SequenceRecord("x", "A")) == header + bare


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_the_fingerprint_is_crc_64_avro_of_the_canonical_form(name):
    def canonical(schema: object) -> object:
        """Parsing Canonical Form: full names, and of each type only what reading needs, in the given order."""
        if isinstance(schema, list):
            return [canonical(branch) for branch in schema]
        if isinstance(schema, str):
            known = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
            return schema if schema in known else f"virnucpro.{schema}"
        if schema["type"] in ("record", "enum"):
            out: dict[str, object] = {"name": f"virnucpro.{schema['name']}", "type": schema["type"]}
            if schema["type"] == "record":
                out["fields"] = [{"name": f["name"], "type": canonical(f["type"])} for f in schema["fields"]]
            else:
                out["symbols"] = schema["symbols"]
            return out
        inner = "items" if schema["type"] == "array" else "values"
        return {"type": schema["type"], inner: canonical(schema[inner])}

    text = json.dumps(canonical(json.loads(schema_json(name))), separators=(",", ":"))
    assert contract(name).fingerprint == crc64_avro(text.encode()).to_bytes(8, "little")


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_messages_survive_both_framings(name):
    value, encode, decode = EXAMPLES[name]
    wire = encode(value)
    assert decode(wire) == value
    assert decode(b"\x00\x00\x00\x00\x07" + wire[10:]) == value


def test_scores_are_float32():
    (score,) = (
        decode_prediction(
            encode_prediction(
                replace(
                    PREDICTION,
                    chunks=(ChunkPrediction("c", 0, 1, Verdict.VIRUS, (FrameScore("R3", 0.1, 0.9),)),),
                )
            )
        )
        .chunks[0]
        .frames
    )
    assert (score.others, score.virus) == (0.10000000149011612, 0.8999999761581421)


@pytest.mark.parametrize(
    ("value", "encode"),
    [
        (replace(RECORD, id=None), encode_record),
        (replace(RECORD, id=5), encode_record),
        (replace(RECORD, sequence="\ud800"), encode_record),
        (replace(RECORD, metadata={"a": 1}), encode_record),
        (replace(PREDICTION, length=2**63), encode_prediction),
        (replace(PREDICTION, verdict="maybe"), encode_prediction),
        (replace(LETTER, value="text"), encode_dead_letter),
    ],
    ids=range(7),
)
def test_what_avro_cannot_carry_is_refused_on_encoding(value, encode):
    with pytest.raises((ValueError, TypeError)):
        encode(value)


# ---- the schemas -----------------------------------------------------------------------------------------------


def described(schema: object, path: str = "") -> list[str]:
    """The named types and fields without a doc."""
    if isinstance(schema, list):
        return [missing for branch in schema for missing in described(branch, path)]
    if not isinstance(schema, dict):
        return []
    missing = (
        [path or schema["name"]] if schema["type"] in ("record", "enum") and not schema.get("doc") else []
    )
    for member in schema.get("fields", []):
        here = f"{path}.{member['name']}"
        missing += ([] if member.get("doc") else [here]) + described(member["type"], here)
    return missing + described(schema.get("items"), path) + described(schema.get("values"), path)


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_every_type_and_field_has_a_doc(name):
    assert described(json.loads(schema_json(name))) == []


@pytest.mark.parametrize(
    ("name", "path", "python"),
    [
        ("sequence_record", [], SequenceRecord),
        ("prediction", [], Prediction),
        ("prediction", ["chunks", "items"], ChunkPrediction),
        ("prediction", ["chunks", "items", "frames", "items"], FrameScore),
        ("prediction", ["provenance"], Provenance),
        ("dead_letter", [], DeadLetter),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_python_types_have_the_fields_of_their_schemas(name, path, python):
    schema = json.loads(schema_json(name))
    for step in path:
        schema = (
            schema["items"]
            if step == "items"
            else next(field["type"] for field in schema["fields"] if field["name"] == step)
        )
    assert [field["name"] for field in schema["fields"]] == [field.name for field in fields(python)]


def test_python_enums_have_the_symbols_of_their_schemas():
    def symbols(name: str, field: str) -> list[str]:
        return next(
            f["type"]["symbols"] for f in json.loads(schema_json(name))["fields"] if f["name"] == field
        )

    assert symbols("prediction", "verdict") == [verdict.value for verdict in Verdict]
    assert symbols("dead_letter", "reason") == [reason.value for reason in Reason]


def test_an_unknown_schema_name_is_refused():
    with pytest.raises(ValueError, match="there are sequence_record, prediction, dead_letter"):
        schema_json("nonsense")


# ---- versions --------------------------------------------------------------------------------------------------


def test_no_released_schema_was_changed_removed_or_forgotten():
    found = {
        (file.parent.name, file.stem): schema_fingerprint(json.loads(file.read_text())).hex()
        for file in HISTORY.glob("*/*.avsc")
    }
    assert found == RELEASED


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_the_current_schema_is_released(name):
    assert contract(name).fingerprint.hex() in RELEASED.values()
    assert {fingerprint.hex() for fingerprint in contract(name).writers} == {
        fingerprint for (released, _), fingerprint in RELEASED.items() if released == name
    }


@pytest.mark.parametrize(("name", "version"), RELEASED)
def test_every_released_version_is_read_today_and_reads_what_is_written_today(name, version):
    """BACKWARD for all; FORWARD, so FULL, for the two outputs."""
    value, encode, decode = EXAMPLES[name]
    old = parse_schema(json.loads((HISTORY / name / f"{version}.avsc").read_text()))
    today = schemaless_reader(BytesIO(encode(value)[10:]), contract(name).current, None)
    seen_by_old = schemaless_reader(BytesIO(encode(value)[10:]), contract(name).current, old)
    out = BytesIO()
    schemaless_writer(out, old, seen_by_old)
    assert decode(b"\xc3\x01" + bytes.fromhex(RELEASED[name, version]) + out.getvalue()).__class__ is type(
        value
    )
    if name != "sequence_record":
        assert seen_by_old.keys() <= today.keys()


def version(name: str, number: int) -> dict:
    """A released schema as JSON."""
    return json.loads((HISTORY / name / f"v{number}.avsc").read_text())


def unreadable(writer: object, reader: object, named: dict[str, object] | None = None) -> list[str]:
    """What of the Avro specification's rules of schema resolution ("Schema Resolution") a pair breaks, for the
    types that our schemas have; nothing if every value of the writer can be read. Promotions of numbers are not
    allowed here: a field keeps its type."""
    named = {} if named is None else named
    if isinstance(writer, list) or isinstance(reader, list):
        branches = reader if isinstance(reader, list) else [reader]
        return [
            f"no branch of {branches} reads {branch}"
            for branch in (writer if isinstance(writer, list) else [writer])
            if all(unreadable(branch, other, named) for other in branches)
        ]
    if isinstance(writer, str) or isinstance(reader, str):
        return [] if writer == reader else [f"{reader} does not read {writer}"]
    if writer["type"] != reader["type"] or writer.get("name") != reader.get("name"):
        return [f"{reader.get('name')} does not read {writer.get('name')}"]
    if writer["type"] == "record":
        written = {field["name"]: field["type"] for field in writer["fields"]}
        problems = [
            f"{field['name']} has no default"
            for field in reader["fields"]
            if field["name"] not in written and "default" not in field
        ]
        for field in reader["fields"]:
            if field["name"] in written:
                problems += unreadable(written[field["name"]], field["type"], named)
        return problems
    if writer["type"] == "enum":
        extra = set(writer["symbols"]) - set(reader["symbols"])
        return [f"unknown symbols {extra}"] if extra and "default" not in reader else []
    inner = "items" if writer["type"] == "array" else "values"
    return unreadable(writer[inner], reader[inner], named)


@pytest.mark.parametrize("name", ["prediction", "dead_letter"])
def test_all_released_versions_of_an_output_are_fully_compatible_with_each_other(name):
    versions = [version(name, int(released[1:])) for of, released in RELEASED if of == name]
    for writer in versions:
        for reader in versions:
            assert unreadable(writer, reader) == []


def test_the_check_of_compatibility_would_see_a_break():
    current = json.loads(schema_json("prediction"))
    for change in (
        lambda fields: fields[-1].pop("default"),
        lambda fields: fields[1].update(type="int"),
        lambda fields: fields[2]["type"]["symbols"].append("maybe"),
        lambda fields: fields[5]["type"]["items"]["fields"].append({"name": "more", "type": "string"}),
    ):
        broken = json.loads(schema_json("prediction"))
        change(broken["fields"])
        assert unreadable(version("prediction", 1), broken) or unreadable(broken, current)


def test_a_prediction_of_version_1_reads_as_one_without_a_call():
    out = BytesIO()
    datum = schemaless_reader(
        BytesIO(encode_prediction(PREDICTION)[10:]), contract("prediction").current, None
    )
    schemaless_writer(out, parse_schema(version("prediction", 1)), datum)
    message = b"\xc3\x01" + bytes.fromhex(RELEASED["prediction", "v1"]) + out.getvalue()
    assert decode_prediction(message) == OF_VERSION_1


def test_a_reader_of_version_1_reads_a_prediction_of_version_2():
    """With the writer's schema, as every Avro reader needs it: by the fingerprint, or from a registry."""
    message = encode_prediction(PREDICTION)
    assert message[2:10].hex() == RELEASED["prediction", "v2"]
    writer, reader = (parse_schema(version("prediction", number)) for number in (2, 1))
    seen = schemaless_reader(BytesIO(message[10:]), writer, reader)
    expected = schemaless_reader(BytesIO(encode_prediction(OF_VERSION_1)[10:]), writer, reader)
    assert seen == expected
    assert list(seen) == [field["name"] for field in version("prediction", 1)["fields"]]


def test_an_older_version_is_resolved_and_a_newer_one_is_unknown(tmp_path):
    older = {
        "type": "record",
        "name": "SequenceRecord",
        "namespace": "virnucpro",
        "fields": [{"name": "id", "type": "string"}, {"name": "sequence", "type": "string"}],
    }
    (tmp_path / "avsc").mkdir()
    (tmp_path / "avsc" / "sequence_record.avsc").write_text(schema_json("sequence_record"))
    (tmp_path / "history" / "sequence_record").mkdir(parents=True)
    (tmp_path / "history" / "sequence_record" / "v0.avsc").write_text(json.dumps(older))
    known = load_contract("sequence_record", tmp_path)
    assert set(known.writers) == {known.fingerprint, schema_fingerprint(older)}

    body = string("seq1") + string("ACGT")
    assert decode_record(b"\x00\x00\x00\x00\x01" + body, lambda _: older) == SequenceRecord("seq1", "ACGT")
    error = refused(b"\xc3\x01" + schema_fingerprint(older) + body)
    assert error.reason is Reason.UNKNOWN_SCHEMA
    assert schema_fingerprint(older).hex() in error.detail


def test_a_reason_that_only_a_newer_version_knows_reads_as_unknown():
    newer = json.loads(schema_json("dead_letter"))
    newer["fields"][0]["type"]["symbols"].append("cosmic_ray")
    out = BytesIO()
    datum = schemaless_reader(BytesIO(encode_dead_letter(LETTER)[10:]), contract("dead_letter").current, None)
    schemaless_writer(out, parse_schema(newer), datum | {"reason": "cosmic_ray"})
    letter = decode_dead_letter(b"\x00\x00\x00\x00\x02" + out.getvalue(), lambda _: newer)
    assert letter == replace(LETTER, reason=Reason.UNKNOWN)


# ---- a schema registry's schemas ----------------------------------------------------------------------------------


class Registry:
    """A writer-schema look-up that counts how often it is asked."""

    def __init__(self, answer: object) -> None:
        self.answer, self.asked = answer, 0

    def __call__(self, schema_id: int) -> dict:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def framed(body: bytes) -> bytes:
    return b"\x00\x00\x00\x00\x09" + body


def test_a_registry_is_asked_once_for_each_id():
    registry = Registry(json.loads(schema_json("sequence_record")))
    for _ in range(3):
        assert decode_record(framed(encode_record(RECORD)[10:]), registry) == RECORD
    assert registry.asked == 1


def test_an_id_that_the_registry_lacks_is_an_unknown_schema():
    error = refused(framed(b""), writer_schema=Registry(KeyError(9)))
    assert error.reason is Reason.UNKNOWN_SCHEMA
    assert "no schema 9" in error.detail


def test_an_outage_of_the_registry_is_no_bad_record():
    registry = Registry(ConnectionError("no answer"))
    with pytest.raises(ConnectionError):
        decode_record(framed(b""), registry)
    registry.answer = json.loads(schema_json("sequence_record"))
    assert decode_record(framed(encode_record(RECORD)[10:]), registry) == RECORD


@pytest.mark.parametrize(
    "schema",
    [
        "string",
        {"type": "record", "name": "R"},
        {"type": "record", "name": "R", "fields": []},
        {"type": "record", "name": "R", "fields": [{"name": "n", "type": "null"}]},
        {
            "type": "record",
            "name": "R",
            "fields": [{"name": "n", "type": {"type": "array", "items": "null"}}],
        },
        {"type": "record", "name": "R", "fields": [{"name": "n", "type": ["null", "R"]}]},
        {"type": "record", "name": "R", "fields": [{"name": "n", "type": "nonsense"}]},
        {
            "type": "record",
            "name": "R",
            "fields": [{"name": "n", "type": {"type": "fixed", "name": "F", "size": 0}}],
        },
        None,
        [],
        7,
    ],
    ids=str,
)
def test_writer_schemas_that_cannot_be_read_in_bounded_time_are_refused(schema):
    with pytest.raises(UnusableSchema):
        parse_writer(schema)
    assert refused(framed(b"\x00"), writer_schema=Registry(schema)).reason is Reason.UNKNOWN_SCHEMA


def test_a_deeply_nested_writer_schema_is_refused():
    deep: object = "string"
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(UnusableSchema):
        parse_writer({"type": "record", "name": "R", "fields": [{"name": "n", "type": deep}]})


def test_a_schema_of_something_else_is_an_unknown_schema():
    other = {"type": "record", "name": "Order", "fields": [{"name": "amount", "type": "long"}]}
    error = refused(framed(varint(5)), writer_schema=Registry(other))
    assert error.reason is Reason.UNKNOWN_SCHEMA


# ---- bad bytes -------------------------------------------------------------------------------------------------

HEADER = encode_record(RECORD)[:10]


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (None, Reason.NULL_VALUE, "no value"),
        (b"", Reason.MALFORMED, "it is empty"),
        (b"ACGT", Reason.MALFORMED, "it begins with 41 43 47 54"),
        (b'{"id": "x"}', Reason.MALFORMED, "neither Avro single-object encoding"),
        (b"\xc3", Reason.MALFORMED, "begins with c3"),
        (b"\xc3\x01\x00", Reason.MALFORMED, "end inside the single-object header"),
        (b"\x00\x00", Reason.MALFORMED, "end inside the Confluent header"),
        (
            b"\xc3\x01" + bytes(8),
            Reason.UNKNOWN_SCHEMA,
            "0000000000000000 is not of a released sequence_record",
        ),
        (encode_prediction(PREDICTION), Reason.UNKNOWN_SCHEMA, "that is a prediction"),
        (HEADER, Reason.MALFORMED, "cut short or damaged"),
        (encode_record(RECORD)[:-1], Reason.MALFORMED, "cut short or damaged"),
        (encode_record(RECORD) + b"!!", Reason.MALFORMED, "2 bytes follow the sequence_record body"),
        (HEADER + varint(2) + b"\xff\xfe" + string("A") + bytes(2), Reason.MALFORMED, "damaged"),
        (HEADER + string("x") + string("A") + varint(2) + bytes(9), Reason.MALFORMED, "damaged"),
        (HEADER + varint(-5) + bytes(9), Reason.MALFORMED, "damaged"),
        (HEADER + varint(2**62) + b"x", Reason.MALFORMED, "damaged"),
        (HEADER + b"\xff" * 12, Reason.MALFORMED, "damaged"),
        (HEADER + string("x") + string("A") + varint(0) + varint(2**62), Reason.MALFORMED, "damaged"),
        (HEADER + string("x") + string("A") + varint(0) + varint(-(2**62)), Reason.MALFORMED, "damaged"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_message_is_refused_with_reason_and_detail(data, reason, says):
    error = refused(data)
    assert error.reason is reason
    assert says in error.detail
    assert str(error) == f"{reason.value}: {error.detail}"


def test_hostile_lengths_cost_no_memory():
    tracemalloc.start()
    try:
        for body in (
            varint(2**40),
            string("x") + varint(2**40),
            string("x") + string("A") + b"\x00" + varint(2**40),
        ):
            assert refused(HEADER + body).reason is Reason.MALFORMED
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


# ---- what a publisher may put into a message ---------------------------------------------------------------------

HEAD = encode_record(SequenceRecord("x", "ACGT"))[:-1]
"""A record up to its metadata."""
ENTRY = string("") + string("")
MANY = 1_000_000
TOO_MUCH = {
    "one entry a block": (varint(1) + ENTRY) * MANY,
    "one block of all": varint(MANY) + ENTRY * MANY,
    "blocks with a size": (varint(-1) + varint(2) + ENTRY) * MANY,
    "a large key": varint(1) + string("k" * 70_000) + string(""),
    "a large value": varint(1) + string("") + string("v" * 70_000),
    "large entries": varint(900) + (string("k" * 50) + string("v" * 50)) * 900,
}
DAMAGED = {
    "a count without an end": b"\x80" * MANY,
    "a length without an end": varint(1) + b"\xff" * MANY,
    "a length below 0": varint(1) + varint(-1),
    "a length over the message": varint(1) + varint(2**40),
    "a block without the entries": varint(MANY),
    "the largest block": varint(2**62),
    "the smallest block": varint(-(2**63)) + varint(0),
    "nothing": b"",
}


@pytest.mark.parametrize("metadata", TOO_MUCH.values(), ids=TOO_MUCH)
@pytest.mark.parametrize("head", [HEAD, b"\x00" * 5 + HEAD[10:]], ids=["single", "confluent"])
def test_more_metadata_than_labels_need_is_refused_before_it_is_decoded(monkeypatch, metadata, head):
    monkeypatch.setattr("schemas.avro.schemaless_reader", None)
    assert refused(head + metadata + varint(0)).reason is Reason.MESSAGE_TOO_LARGE


@pytest.mark.parametrize("metadata", DAMAGED.values(), ids=DAMAGED)
def test_numbers_that_do_not_end_are_refused_before_they_are_decoded(monkeypatch, metadata):
    monkeypatch.setattr("schemas.avro.schemaless_reader", None)
    assert refused(HEAD + metadata).reason is Reason.MALFORMED


@pytest.mark.parametrize("place", range(4))
def test_no_number_of_a_record_is_read_without_an_end(monkeypatch, place):
    monkeypatch.setattr("schemas.avro.schemaless_reader", None)
    parts = [string("x"), string("ACGT"), varint(1) + string("about")]
    assert refused(HEAD[:10] + b"".join(parts[:place]) + b"\x80" * MANY).reason is Reason.MALFORMED


def test_metadata_within_the_bounds_is_read_however_it_is_divided():
    labels = {f"k{n}": "v" * 50 for n in range(1000)}
    record = SequenceRecord("x", "ACGT", metadata=labels)
    assert decode_record(encode_record(record)) == record
    blocks = b"".join(varint(1) + string(key) + string(value) for key, value in labels.items())
    assert decode_record(HEAD + blocks + varint(0)) == record
    entries = b"".join(string(key) + string(value) for key, value in labels.items())
    assert decode_record(HEAD + varint(-1000) + varint(len(entries)) + entries + varint(0)) == record


def test_the_bounds_hold_for_whatever_a_schema_of_the_registry_adds():
    """Maps and arrays in each other, in unions and named types, of every kind of value."""
    tag = {
        "type": "record",
        "name": "Tag",
        "fields": [{"name": "n", "type": "int"}, {"name": "f", "type": "double"}],
    }
    members = [
        {"name": "sum", "type": {"type": "fixed", "name": "Sum", "size": 4}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "on", "type": ["null", "boolean", "float", "bytes", "long"]},
        {"name": "tags", "type": {"type": "array", "items": {"type": "map", "values": tag}}},
        {"name": "last", "type": ["null", "Tag"]},
    ]
    fields = [{"name": "id", "type": "string"}, {"name": "sequence", "type": "string"}, *members]
    schema = {"type": "record", "name": "SequenceRecord", "namespace": "virnucpro", "fields": fields}
    value = {
        "id": "x",
        "sequence": "ACGT",
        "sum": b"1234",
        "kind": "B",
        "on": 0.5,
        "last": {"n": 1, "f": 0.5},
    }

    def message(rows: int, columns: int) -> bytes:
        out = BytesIO()
        table = [{f"{n}": {"n": n, "f": 1.0} for n in range(columns)} for _ in range(rows)]
        schemaless_writer(out, parse_schema(schema), value | {"tags": table})
        return b"\x00\x00\x00\x00\x07" + out.getvalue()

    def registry(_: int) -> dict:
        return schema

    assert decode_record(message(20, 20), registry) == SequenceRecord("x", "ACGT")
    assert refused(message(40, 40), writer_schema=registry).reason is Reason.MESSAGE_TOO_LARGE
    assert refused(message(1001, 0), writer_schema=registry).reason is Reason.MESSAGE_TOO_LARGE
