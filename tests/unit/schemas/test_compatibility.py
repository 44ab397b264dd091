"""The rule by which schemas may change: Avro's schema resolution, and the promise of each contract."""

from __future__ import annotations

import copy
import json
from io import BytesIO

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.read import SchemaResolutionError

from schemas import SCHEMA_NAMES, schema_json
from schemas.compatibility import evolution_problems, incompatibilities, promise_problems


def record(*fields, name="R", **more):
    return {"type": "record", "name": name, "fields": [*fields], **more}


def field(name, kind, **more):
    return {"name": name, "type": kind, **more}


def enum(*symbols, **more):
    return {"type": "enum", "name": "E", "symbols": [*symbols], **more}


A = field("a", "long")
COMPATIBLE = [
    (record(A), record(A)),
    (record(A), record(A, field("b", "string"))),
    (record(A, field("b", "string", default="")), record(A)),
    (record(field("b", "long", aliases=["a"])), record(A)),
    (record(A, name="n.R"), record(A, name="m.R")),
    (record(A, name="New", aliases=["R"]), record(A)),
    (record(field("a", "double")), record(A)),
    (record(field("a", "bytes")), record(field("a", "string"))),
    (record(field("a", ["null", "long"])), record(A)),
    (record(field("a", ["null", "double"])), record(A)),
    (record(A), record(field("a", ["int", "long"]))),
    (record(field("a", enum("X", "Y"))), record(field("a", enum("X")))),
    (record(field("a", enum("X", default="X"))), record(field("a", enum("X", "Y")))),
    (
        record(field("a", {"type": "array", "items": "double"})),
        record(field("a", {"type": "array", "items": "int"})),
    ),
    (record(field("a", ["null", "R"])), record(field("a", ["null", "R"]))),
]
INCOMPATIBLE = [
    (record(A, field("b", "string")), record(A), "b is missing and has no default"),
    (record(field("a", "long"), name="S"), record(A), "it is a R, not a S"),
    (record(field("a", "int")), record(A), "a is long, not int"),
    (record(field("a", "string")), record(A), "a is long, not string"),
    (record(A), record(field("a", ["null", "long"])), "a is null, not long"),
    (record(field("a", ["null", "string"])), record(A), "a is long, which is not in the reader's union"),
    (record(field("a", enum("X"))), record(field("a", enum("X", "Y"))), "a may be Y"),
    (
        record(field("a", {"type": "map", "values": "int"})),
        record(field("a", {"type": "map", "values": "string"})),
        "a is string, not int",
    ),
    (
        record(field("a", {"type": "fixed", "name": "F", "size": 2})),
        record(field("a", {"type": "fixed", "name": "F", "size": 3})),
        "a has 3 bytes, not 2",
    ),
    (
        record(field("a", record(field("b", "int"), name="I"))),
        record(field("a", record(field("b", "string"), name="I"))),
        "a.b is string, not int",
    ),
]


@pytest.mark.parametrize(("reader", "writer"), COMPATIBLE)
def test_what_can_be_read(reader, writer):
    assert incompatibilities(reader, writer) == []


@pytest.mark.parametrize(("reader", "writer", "says"), INCOMPATIBLE)
def test_what_cannot_be_read_and_why(reader, writer, says):
    (line,) = incompatibilities(reader, writer)
    assert line.startswith(says)


DATA = {"long": 7, "int": 7, "string": "x", "double": 1.5, "bytes": b"x"}


@pytest.mark.parametrize(
    ("reader", "writer"),
    [pair[:2] for pair in COMPATIBLE + INCOMPATIBLE if isinstance(pair[1]["fields"][0]["type"], str)],
)
def test_the_rule_agrees_with_what_fastavro_does(reader, writer):
    out = BytesIO()
    written = {each["name"]: DATA[each["type"]] for each in writer["fields"]}
    schemaless_writer(out, parse_schema(copy.deepcopy(writer)), written)
    out.seek(0)
    try:
        schemaless_reader(out, parse_schema(copy.deepcopy(writer)), parse_schema(copy.deepcopy(reader)))
    except SchemaResolutionError:
        assert incompatibilities(reader, writer) != []
    else:
        assert incompatibilities(reader, writer) == []


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_every_contract_keeps_its_promise(name):
    assert evolution_problems(name) == []


def test_a_field_without_a_default_breaks_backward_and_a_removed_one_breaks_full():
    released = {"version 1": json.loads(schema_json("prediction"))}
    grown, shrunk = json.loads(schema_json("prediction")), json.loads(schema_json("prediction"))
    grown["fields"].append(field("extra", "string"))
    shrunk["fields"] = [each for each in shrunk["fields"] if each["name"] != "length"]
    assert promise_problems(grown, released, "BACKWARD") == [
        "version 1 cannot be read: extra is missing and has no default"
    ]
    assert promise_problems(shrunk, released, "BACKWARD") == []
    assert promise_problems(shrunk, released, "FULL") == [
        "version 1 cannot read it: length is missing and has no default"
    ]


def test_a_reason_may_be_added_and_a_verdict_may_not():
    letter, prediction = json.loads(schema_json("dead_letter")), json.loads(schema_json("prediction"))
    new_letter, new_prediction = copy.deepcopy(letter), copy.deepcopy(prediction)
    next(each for each in new_letter["fields"] if each["name"] == "reason")["type"]["symbols"].append(
        "cosmic_ray"
    )
    next(each for each in new_prediction["fields"] if each["name"] == "verdict")["type"]["symbols"].append(
        "maybe"
    )
    assert promise_problems(new_letter, {"v": letter}, "FULL") == []
    assert promise_problems(new_prediction, {"v": prediction}, "FULL") == [
        "v cannot read it: verdict may be maybe, which the reader does not know",
        "v cannot read it: chunks.verdict may be maybe, which the reader does not know",
    ]
