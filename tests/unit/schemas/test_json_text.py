"""JSON messages: the same values as Avro's, plainly written, and the same refusal for what is not one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from schemas import MalformedMessage, Reason, SequenceRecord, Verdict, avro
from schemas.bounds import MAX_BYTES, MAX_ENTRIES
from schemas.json_text import (
    decode_dead_letter,
    decode_prediction,
    decode_record,
    encode_dead_letter,
    encode_prediction,
    encode_record,
    looks_like_json,
)
from tests.support.messages import LETTER, PREDICTION, RECORD


def refused(text: str | bytes | None, decode=decode_record) -> MalformedMessage:
    with pytest.raises(MalformedMessage) as caught:
        decode(text.encode() if isinstance(text, str) else text)
    return caught.value


def test_a_record_is_an_object_with_the_fields_of_the_schema():
    assert encode_record(RECORD) == (
        b'{"id":"seq1","sequence":"ACGT","description":"a virus","metadata":{"run":"7"}}'
    )


def test_unions_are_plain_bytes_are_base64_and_floats_are_as_short_as_float32():
    letter = json.loads(encode_dead_letter(replace(LETTER, key=b"\x00\xff")))
    assert (letter["value"], letter["key"], letter["reason"]) == ("wwEA", "AP8=", "invalid_nucleotides")
    assert json.loads(encode_dead_letter(replace(LETTER, value=None)))["value"] is None
    prediction = json.loads(encode_prediction(replace(PREDICTION, virus_score=0.1)))
    assert (prediction["virus_score"], prediction["verdict"]) == (0.1, "virus")
    assert prediction["chunks"][0]["frames"] == [{"frame": "F1", "others": 0.25, "virus": 0.75}]
    assert prediction["provenance"]["source_offset"] == 41


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "x", "sequence": "A"}',
        '\ufeff {"sequence": "A", "id": "x", "description": null, "metadata": {}}\n',
        '{"id": "x", "sequence": "A", "from_a_newer_version": [1, {"a": null}]}',
    ],
    ids=range(3),
)
def test_order_blanks_missing_defaults_and_unknown_fields_do_not_matter(text):
    assert looks_like_json(text.encode())
    assert decode_record(text.encode()) == SequenceRecord("x", "A")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "it is not JSON"),
        (b"ACGT", "it is not JSON"),
        (b'{"id": "x", "sequence": "A"', "it is not JSON"),
        (b'{"id": "x", "sequence": "A"} x', "it is not JSON"),
        (b'{"id": "\xff", "sequence": "A"}', "it is not JSON"),
        ('{"id": "x", "sequence": "A"}'.encode("utf-16"), "it is not JSON"),
        (b'{"id": ' + b"[" * 100_000, "it is not JSON"),
        (b'{"id": "x", "sequence": "A", "n": ' + b"9" * 5000 + b"}", "it is not JSON"),
        (b'["x", "A"]', "it is an array, not an object"),
        (b"null", "it is null, not an object"),
        (b'{"sequence": "A"}', "id is missing"),
        (b'{"id": "x"}', "sequence is missing"),
        (b'{"id": 5, "sequence": "A"}', "id is a number, not a string"),
        (b'{"id": null, "sequence": "A"}', "id is null, not a string"),
        (b'{"id": "x", "sequence": ["A"]}', "sequence is an array, not a string"),
        (b'{"id": "x", "sequence": "A", "description": {"string": "y"}}', "description is an object"),
        (b'{"id": "x", "sequence": "A", "metadata": null}', "metadata is null, not an object"),
        (b'{"id": "x", "sequence": "A", "metadata": {"a": 1}}', "metadata is a number, not a string"),
        (b'{"id": "x", "id": "y", "sequence": "A"}', "names a field twice"),
        (b'{"id": "\\ud800", "sequence": "A"}', "id holds half of a surrogate pair"),
        (b'{"id": "x", "sequence": "A", "metadata": {"\\ud800": ""}}', "half of a surrogate pair"),
        (b'{"id": "x", "sequence": "A", "n": NaN}', "NaN is not a JSON number"),
    ],
    ids=range(22),
)
def test_what_is_not_a_record_is_malformed_and_the_detail_says_why(text, says):
    error = refused(text)
    assert error.reason is Reason.MALFORMED
    assert says in error.detail
    assert "\n" not in error.detail


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({str(number): "" for number in range(MAX_ENTRIES + 1)}, f"more than {MAX_ENTRIES} entries"),
        ({"a": "é" * (MAX_BYTES // 2)}, f"more than {MAX_BYTES} bytes"),
    ],
    ids=["entries", "bytes"],
)
def test_the_bounds_are_those_of_avro(metadata, says):
    large = SequenceRecord("x", "A", None, metadata)
    refusals = [refused(encode_record(large)), refused(avro.encode_record(large), avro.decode_record)]
    for error in refusals:
        assert error.reason is Reason.MESSAGE_TOO_LARGE
        assert says in error.detail
    assert refusals[0].detail == refusals[1].detail
    within = SequenceRecord(
        "x" * 1000, "A" * 2 * MAX_BYTES, "y" * MAX_BYTES, dict(list(metadata.items())[1:])
    )
    assert decode_record(encode_record(within)) == within


def test_no_value_is_no_value():
    assert refused(None).reason is Reason.NULL_VALUE


def changed(value, path, new):
    """A message as JSON with one value replaced."""
    document = json.loads(encode_prediction(value) if value is PREDICTION else encode_dead_letter(value))
    at = document
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = new
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "new", "says"),
    [
        (["length"], 1.5, "length is a number, not a whole number"),
        (["length"], True, "length is true or false, not a whole number"),
        (["length"], 2**63, "length is out of range"),
        (["verdict"], "maybe", "verdict is not one of virus, others, no_open_frame"),
        (["virus_score"], 1e39, "virus_score is out of range"),
        (["virus_score"], 10**400, "virus_score is out of range"),
        (["virus_score"], "1", "virus_score is a string, not a number"),
        (["chunks", 0, "frames", 0, "virus"], None, "virus is null, not a number"),
        (["chunks"], {}, "chunks is an object, not an array"),
        (["provenance"], [], "provenance is an array, not an object"),
    ],
    ids=range(10),
)
def test_what_is_not_a_prediction_is_malformed(path, new, says):
    error = refused(changed(PREDICTION, path, new), decode_prediction)
    assert error.reason is Reason.MALFORMED
    assert says in error.detail


@pytest.mark.parametrize(
    ("path", "new", "says"),
    [
        (["value"], "not base64!", "value is not base64"),
        (["value"], "wwE", "value is not base64"),
        (["truncated"], 1, "truncated is a number, not true or false"),
        (["value_sha256"], 7, "value_sha256 is a number, not a string"),
    ],
    ids=range(4),
)
def test_what_is_not_a_dead_letter_is_malformed(path, new, says):
    error = refused(changed(LETTER, path, new), decode_dead_letter)
    assert error.reason is Reason.MALFORMED
    assert says in error.detail


def test_a_reason_that_only_a_newer_version_knows_reads_as_unknown():
    assert decode_dead_letter(changed(LETTER, ["reason"], "cosmic_ray").encode()).reason is Reason.UNKNOWN


@pytest.mark.parametrize(
    ("value", "encode"),
    [
        (replace(RECORD, id=None), encode_record),
        (replace(RECORD, sequence="\ud800"), encode_record),
        (replace(RECORD, metadata={"a": 1}), encode_record),
        (replace(PREDICTION, length=2**63), encode_prediction),
        (replace(PREDICTION, verdict="maybe"), encode_prediction),
        (replace(PREDICTION, virus_score=float("nan")), encode_prediction),
        (replace(PREDICTION, virus_score=1e39), encode_prediction),
        (replace(LETTER, value="text"), encode_dead_letter),
    ],
    ids=range(8),
)
def test_what_the_schema_cannot_carry_is_refused_on_encoding(value, encode):
    with pytest.raises((ValueError, TypeError)):
        encode(value)


def test_verdicts_and_reasons_are_their_types():
    assert decode_prediction(encode_prediction(PREDICTION)).verdict is Verdict.VIRUS
    assert decode_dead_letter(encode_dead_letter(LETTER)).reason is Reason.INVALID_NUCLEOTIDES
