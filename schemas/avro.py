"""Messages to bytes and back: Avro single-object encoding out, that or Confluent framing in.

Formats: Avro 1.12 specification, "Single-object encoding"; Confluent Schema Registry, "Wire
format".  docs/schemas.md has both, and what each bad input gets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache, lru_cache
from io import BytesIO
from typing import Any, NamedTuple

from fastavro import schemaless_reader, schemaless_writer
from fastavro.read import SchemaResolutionError

from schemas.bounds import TooMuch, bounded
from schemas.contracts import SCHEMA_NAMES, Contract, SchemaName, UnusableSchema, contract, parse_writer
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

SINGLE_OBJECT_MARKER = b"\xc3\x01"
CONFLUENT_MAGIC = 0
_SINGLE_OBJECT_HEADER = len(SINGLE_OBJECT_MARKER) + 8
_CONFLUENT_HEADER = 5
_DETAIL_LETTERS = 300

WriterSchema = Callable[[int], dict[str, Any]]
"""Registry id -> the schema as parsed JSON; a LookupError means that the registry has no such id."""


class _Writer(NamedTuple):
    """What a message was written with: the schema, and for input, which others write, the bounds on decoding it."""

    schema: dict[str, Any]
    check: Callable[[bytes, int], None] | None


class MalformedMessage(ValueError):
    """The one error of decoding.

    ``reason`` is null_value, malformed, unknown_schema or message_too_large; ``detail`` one bounded line for people.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail if len(detail) <= _DETAIL_LETTERS else detail[: _DETAIL_LETTERS - 1] + "…"
        super().__init__(f"{reason.value}: {self.detail}")


def encode_record(record: SequenceRecord) -> bytes:
    """Single-object encoding; raises ValueError or TypeError for a value that Avro cannot carry."""
    return _encode("sequence_record", _plain(record))


def encode_prediction(prediction: Prediction) -> bytes:
    """Single-object encoding; raises ValueError or TypeError for a value that Avro cannot carry."""
    datum = _plain(prediction)
    datum["chunks"] = [
        _plain(chunk) | {"frames": [_plain(score) for score in chunk.frames]} for chunk in prediction.chunks
    ]
    datum["provenance"] = _plain(prediction.provenance)
    return _encode("prediction", datum)


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """Single-object encoding; raises ValueError or TypeError for a value that Avro cannot carry."""
    return _encode("dead_letter", _plain(letter))


def decode_record(data: bytes | None, writer_schema: WriterSchema | None = None) -> SequenceRecord:
    """Decode a `SequenceRecord`; raises `MalformedMessage`, and what ``writer_schema`` raises.

    ``data`` is single-object encoded with any released version, or Confluent framed.  Framed data
    is read with the schema that ``writer_schema`` gives for its id, or with the current schema when
    there is no ``writer_schema``.  Maps and arrays over the bounds of `schemas.bounds` are
    message_too_large.  That callable must be hashable and one object for all calls: its
    schemas, immutable in a registry, are parsed once for each id.  A LookupError of it becomes
    unknown_schema; any other error, such as a registry that does not answer, passes through, so
    that an outage is never taken for a bad record.
    """
    return SequenceRecord(**_decode("sequence_record", data, writer_schema))


def decode_prediction(data: bytes | None, writer_schema: WriterSchema | None = None) -> Prediction:
    """Decode a `Prediction`; input and errors as in `decode_record`."""
    datum = _decode("prediction", data, writer_schema)
    datum["verdict"] = Verdict(datum["verdict"])
    datum["chunks"] = tuple(_chunk(chunk) for chunk in datum["chunks"])
    datum["provenance"] = Provenance(**datum["provenance"])
    return Prediction(**datum)


def decode_dead_letter(data: bytes | None, writer_schema: WriterSchema | None = None) -> DeadLetter:
    """Decode a `DeadLetter`; input and errors as in `decode_record`."""
    datum = _decode("dead_letter", data, writer_schema)
    datum["reason"] = Reason(datum["reason"])
    return DeadLetter(**datum)


def _plain(value: Any) -> dict[str, Any]:
    """The fields of a slots dataclass; dataclasses.asdict copies deeply and is ten times slower."""
    return {name: getattr(value, name) for name in value.__slots__}


def _chunk(datum: dict[str, Any]) -> ChunkPrediction:
    datum["verdict"] = Verdict(datum["verdict"])
    datum["frames"] = tuple(FrameScore(**score) for score in datum["frames"])
    return ChunkPrediction(**datum)


def _encode(name: SchemaName, datum: dict[str, Any]) -> bytes:
    known = contract(name)
    out = BytesIO()
    out.write(SINGLE_OBJECT_MARKER + known.fingerprint)
    try:
        schemaless_writer(out, known.current, datum)
    except (OverflowError, struct.error, LookupError) as error:
        raise ValueError(f"a value does not fit the schema {name}: {error}") from error
    return out.getvalue()


def _decode(name: SchemaName, data: bytes | None, writer_schema: WriterSchema | None) -> dict[str, Any]:
    if data is None:
        raise MalformedMessage(Reason.NULL_VALUE, "the message has no value")
    if data[:2] == SINGLE_OBJECT_MARKER:
        return _read(name, data, _SINGLE_OBJECT_HEADER, _released(contract(name), data))
    if data[:1] == bytes([CONFLUENT_MAGIC]):
        if len(data) < _CONFLUENT_HEADER:
            raise MalformedMessage(Reason.MALFORMED, f"{len(data)} bytes end inside the Confluent header")
        if writer_schema is None:
            return _read(name, data, _CONFLUENT_HEADER, _writer(name, contract(name).fingerprint))
        schema_id = int.from_bytes(data[1:_CONFLUENT_HEADER], "big")
        return _read(name, data, _CONFLUENT_HEADER, _registered(name, writer_schema, schema_id))
    start = f"it begins with {data[:4].hex(' ')}" if data else "it is empty"
    raise MalformedMessage(
        Reason.MALFORMED,
        f"neither Avro single-object encoding (c3 01) nor Confluent framing (00): {start}",
    )


def _released(known: Contract, data: bytes) -> _Writer:
    fingerprint = data[2:_SINGLE_OBJECT_HEADER]
    if len(fingerprint) < 8:
        raise MalformedMessage(Reason.MALFORMED, f"{len(data)} bytes end inside the single-object header")
    if fingerprint in known.writers:
        return _writer(known.name, fingerprint)
    other = next((n for n in SCHEMA_NAMES if fingerprint in contract(n).writers), None)
    hint = f"that is a {other}" if other else "a newer version, or not a message of this service"
    raise MalformedMessage(
        Reason.UNKNOWN_SCHEMA,
        f"fingerprint {fingerprint.hex()} is not of a released {known.name} schema ({hint})",
    )


@cache
def _writer(name: SchemaName, fingerprint: bytes) -> _Writer:
    """The writer of a released version."""
    return _of(name, contract(name).writers[fingerprint])


def _of(name: SchemaName, schema: dict[str, Any]) -> _Writer:
    return _Writer(schema, bounded(schema) if name == "sequence_record" else None)


@lru_cache(maxsize=1024)
def _registered(name: SchemaName, writer_schema: WriterSchema, schema_id: int) -> _Writer:
    try:
        return _of(name, parse_writer(writer_schema(schema_id)))
    except LookupError as error:
        raise MalformedMessage(
            Reason.UNKNOWN_SCHEMA, f"the schema registry has no schema {schema_id}"
        ) from error
    except UnusableSchema as error:
        raise MalformedMessage(
            Reason.UNKNOWN_SCHEMA, f"schema {schema_id} of the registry is refused: {error}"
        ) from error


def _read(name: SchemaName, data: bytes, start: int, writer: _Writer) -> dict[str, Any]:
    current = contract(name).current
    body = BytesIO(data)
    body.seek(start)
    try:
        if writer.check is not None:
            writer.check(data, start)
        # Without a reader schema fastavro skips resolution: several times faster on the usual path.
        datum: Any = schemaless_reader(body, writer.schema, None if writer.schema is current else current)
    except TooMuch as error:
        raise MalformedMessage(Reason.MESSAGE_TOO_LARGE, str(error)) from error
    except SchemaResolutionError as error:
        raise MalformedMessage(
            Reason.UNKNOWN_SCHEMA, f"written with a schema that cannot be read as {name}: {error}"
        ) from error
    except (EOFError, IndexError) as error:
        # fastavro raises IndexError both for a cut varint and for an enum or union index out of range.
        raise MalformedMessage(
            Reason.MALFORMED, f"the {name} body is cut short or damaged ({str(error) or 'end of data'})"
        ) from error
    except (
        ValueError,  # UnicodeDecodeError among them
        TypeError,
        LookupError,
        ArithmeticError,
        struct.error,
        RecursionError,
        MemoryError,
    ) as error:
        raise MalformedMessage(
            Reason.MALFORMED, f"the {name} body is damaged ({type(error).__name__}: {error})"
        ) from error
    if (end := body.tell()) != len(data):
        raise MalformedMessage(Reason.MALFORMED, f"{len(data) - end} bytes follow the {name} body")
    return datum  # type: ignore[no-any-return]
