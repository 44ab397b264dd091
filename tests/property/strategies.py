"""Hypothesis strategies for the messages of the contract."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from schemas import (
    ChunkPrediction,
    DeadLetter,
    FrameScore,
    Prediction,
    Provenance,
    Reason,
    SequenceRecord,
    Verdict,
)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
longs = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(width=32, allow_nan=False)
doubles = st.floats(allow_nan=False)
raw = st.binary(max_size=60)

records = st.builds(
    SequenceRecord,
    id=texts,
    sequence=st.one_of(texts, st.text("ACGTN", max_size=200)),
    description=st.none() | texts,
    metadata=st.dictionaries(texts, texts, max_size=4),
)
frame_scores = st.builds(FrameScore, st.sampled_from(["F1", "F2", "F3", "R1", "R2", "R3"]), floats, floats)
chunks = st.builds(
    ChunkPrediction,
    texts,
    longs,
    longs,
    st.sampled_from(Verdict),
    st.lists(frame_scores, max_size=6).map(tuple),
)
provenances = st.builds(
    Provenance,
    *[texts, texts, longs, texts, texts, texts, texts],
    *[st.none() | texts, st.none() | longs, st.none() | longs],
)
predictions = st.builds(
    Prediction,
    texts,
    longs,
    st.sampled_from(Verdict),
    st.none() | floats,
    st.none() | floats,
    st.lists(chunks, max_size=3).map(tuple),
    provenances,
    *[st.none() | texts, st.none() | texts, st.none() | doubles],
    *[st.none() | longs] * 4,
    *[st.none() | doubles] * 2,
)
dead_letters = st.builds(
    DeadLetter,
    reason=st.sampled_from(Reason),
    detail=texts,
    stage=texts,
    value=st.none() | raw,
    key=st.none() | raw,
    truncated=st.booleans(),
    value_sha256=st.none() | texts,
    source_topic=texts,
    source_partition=longs,
    source_offset=longs,
    source_timestamp_ms=st.none() | longs,
    group_id=texts,
    attempts=longs,
    software_version=texts,
    failed_at_ms=longs,
)


def data_of(schema: Any, named: dict[str, st.SearchStrategy[Any]] | None = None) -> st.SearchStrategy[Any]:
    """Values of an Avro schema (as parsed JSON) as fastavro takes them."""
    named = {} if named is None else named
    if isinstance(schema, list):
        return st.one_of(*(data_of(branch, named) for branch in schema))
    if isinstance(schema, str):
        return _PRIMITIVES[schema] if schema in _PRIMITIVES else named[schema.rpartition(".")[2]]
    match schema["type"]:
        case "record":
            made = st.fixed_dictionaries(
                {each["name"]: data_of(each["type"], named) for each in schema["fields"]}
            )
        case "enum":
            made = st.sampled_from(schema["symbols"])
        case "array":
            return st.lists(data_of(schema["items"], named), max_size=3)
        case "map":
            return st.dictionaries(texts, data_of(schema["values"], named), max_size=3)
        case primitive:
            return _PRIMITIVES[primitive]
    named[schema["name"]] = made
    return made


_PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": longs,
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "string": texts,
    "bytes": raw,
}
