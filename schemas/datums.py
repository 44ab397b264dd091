"""Between the Python types and the plain dicts that Avro and JSON are written from and read into."""

from __future__ import annotations

from typing import Any

from schemas.types import (
    ChunkPrediction,
    DeadLetter,
    FrameScore,
    Prediction,
    Provenance,
    Reason,
    SequenceRecord,
    Verdict,
)

Datum = dict[str, Any]
"""A record of a schema as Avro has it: field name -> value, nested records as dicts."""


def record_datum(record: SequenceRecord) -> Datum:
    """A `SequenceRecord` as a dict."""
    return _plain(record)


def prediction_datum(prediction: Prediction) -> Datum:
    """A `Prediction` as a dict, with the records in it."""
    datum = _plain(prediction)
    datum["chunks"] = [
        _plain(chunk) | {"frames": [_plain(score) for score in chunk.frames]} for chunk in prediction.chunks
    ]
    datum["provenance"] = _plain(prediction.provenance)
    return datum


def dead_letter_datum(letter: DeadLetter) -> Datum:
    """A `DeadLetter` as a dict."""
    return _plain(letter)


def record_of(datum: Datum) -> SequenceRecord:
    """The `SequenceRecord` of a dict that was read by its schema."""
    return SequenceRecord(**datum)


def prediction_of(datum: Datum) -> Prediction:
    """The `Prediction` of a dict that was read by its schema; the dict is used up."""
    datum["verdict"] = Verdict(datum["verdict"])
    datum["chunks"] = tuple(_chunk(chunk) for chunk in datum["chunks"])
    datum["provenance"] = Provenance(**datum["provenance"])
    return Prediction(**datum)


def dead_letter_of(datum: Datum) -> DeadLetter:
    """The `DeadLetter` of a dict that was read by its schema; the dict is used up."""
    datum["reason"] = Reason(datum["reason"])
    return DeadLetter(**datum)


def _plain(value: Any) -> Datum:
    """The fields of a slots dataclass; dataclasses.asdict copies deeply and is ten times slower."""
    return {name: getattr(value, name) for name in value.__slots__}


def _chunk(datum: Datum) -> ChunkPrediction:
    datum["verdict"] = Verdict(datum["verdict"])
    datum["frames"] = tuple(FrameScore(**score) for score in datum["frames"])
    return ChunkPrediction(**datum)
