"""The message contract: Avro schemas, their Python types and the wire codecs."""

from __future__ import annotations

from schemas.avro import (
    SchemaId,
    WriterSchema,
    decode_dead_letter,
    decode_prediction,
    decode_record,
    encode_dead_letter,
    encode_prediction,
    encode_record,
)
from schemas.contracts import SCHEMA_NAMES, SchemaName, schema_json
from schemas.malformed import MalformedMessage
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

__all__ = [
    "SCHEMA_NAMES",
    "ChunkPrediction",
    "DeadLetter",
    "FrameScore",
    "MalformedMessage",
    "Prediction",
    "Provenance",
    "Reason",
    "SchemaId",
    "SchemaName",
    "SequenceRecord",
    "Verdict",
    "WriterSchema",
    "decode_dead_letter",
    "decode_prediction",
    "decode_record",
    "encode_dead_letter",
    "encode_prediction",
    "encode_record",
    "schema_json",
]
