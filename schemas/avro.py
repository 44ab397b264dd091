"""Avro messages to bytes and back, in three framings: single-object encoding, Confluent's, Confluent's in a header.

Formats: Avro 1.12 specification, "Single-object encoding"; Confluent Schema Registry, "Wire
format".  docs/schemas.md has all of them, and what each bad input gets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache, lru_cache
from io import BytesIO
from typing import Any, NamedTuple
from uuid import UUID

from fastavro import schemaless_reader, schemaless_writer
from fastavro.read import SchemaResolutionError

from schemas.bounds import TooMuch, bounded
from schemas.contracts import (
    SCHEMA_NAMES,
    Contract,
    SchemaName,
    UnusableSchema,
    contract,
    parse_writer,
    schema_fingerprint,
)
from schemas.datums import (
    Datum,
    dead_letter_datum,
    dead_letter_of,
    prediction_datum,
    prediction_of,
    record_datum,
    record_of,
)
from schemas.malformed import MalformedMessage
from schemas.types import DeadLetter, Prediction, Reason, SequenceRecord

SINGLE_OBJECT_MARKER = b"\xc3\x01"
CONFLUENT_MAGIC = 0
_SINGLE_OBJECT_HEADER = len(SINGLE_OBJECT_MARKER) + 8
_CONFLUENT_HEADER = 5

SchemaId = int | UUID
"""What names a schema in a registry: its id, 4 bytes, or its GUID."""
WriterSchema = Callable[[SchemaId], dict[str, Any]]
"""Registry id -> the schema as parsed JSON; a LookupError means that the registry has no such id."""


class _Writer(NamedTuple):
    """What a message was written with: the schema, and for input, which others write, the bounds on decoding it."""

    schema: dict[str, Any]
    check: Callable[[bytes, int], None] | None


def encode_record(record: SequenceRecord, prefix: bytes | None = None) -> bytes:
    """``prefix`` and the Avro body; without a prefix single-object encoding.

    Raises ValueError or TypeError for a value that Avro cannot carry.
    """
    return _encode("sequence_record", record_datum(record), prefix)


def encode_prediction(prediction: Prediction, prefix: bytes | None = None) -> bytes:
    """As `encode_record`."""
    return _encode("prediction", prediction_datum(prediction), prefix)


def encode_dead_letter(letter: DeadLetter, prefix: bytes | None = None) -> bytes:
    """As `encode_record`."""
    return _encode("dead_letter", dead_letter_datum(letter), prefix)


def decode_record(
    data: bytes | None, writer_schema: WriterSchema | None = None, schema_id: SchemaId | None = None
) -> SequenceRecord:
    """Decode a `SequenceRecord`; raises `MalformedMessage`, and what ``writer_schema`` raises.

    ``data`` is the bare Avro body when ``schema_id`` names its schema (the id came in a header). Otherwise it is
    single-object encoded with any released version, or Confluent framed.  An id is resolved by
    ``writer_schema``; without one such data is read with the current schema, whatever the id.  That callable
    must be hashable and one object for all calls: its schemas, immutable in a registry, are parsed once for each id.
    A LookupError of it becomes unknown_schema; any other error, such as a registry that does not answer, passes
    through, so that an outage is never taken for a bad record.  Maps and arrays over the bounds of `schemas.bounds` are
    message_too_large.
    """
    return record_of(_decode("sequence_record", data, writer_schema, schema_id))


def decode_prediction(
    data: bytes | None, writer_schema: WriterSchema | None = None, schema_id: SchemaId | None = None
) -> Prediction:
    """Decode a `Prediction`; input and errors as in `decode_record`."""
    return prediction_of(_decode("prediction", data, writer_schema, schema_id))


def decode_dead_letter(
    data: bytes | None, writer_schema: WriterSchema | None = None, schema_id: SchemaId | None = None
) -> DeadLetter:
    """Decode a `DeadLetter`; input and errors as in `decode_record`."""
    return dead_letter_of(_decode("dead_letter", data, writer_schema, schema_id))


def confluent_prefix(schema_id: int) -> bytes:
    """The five bytes of Confluent's framing."""
    return bytes([CONFLUENT_MAGIC]) + schema_id.to_bytes(4, "big")


def _encode(name: SchemaName, datum: Datum, prefix: bytes | None) -> bytes:
    known = contract(name)
    out = BytesIO()
    out.write(SINGLE_OBJECT_MARKER + known.fingerprint if prefix is None else prefix)
    try:
        schemaless_writer(out, known.current, datum)
    except (OverflowError, struct.error, LookupError) as error:
        raise ValueError(f"a value does not fit the schema {name}: {error}") from error
    return out.getvalue()


def _decode(
    name: SchemaName, data: bytes | None, writer_schema: WriterSchema | None, schema_id: SchemaId | None
) -> Datum:
    if data is None:
        raise MalformedMessage(Reason.NULL_VALUE, "the message has no value")
    if schema_id is not None:
        return _read(name, data, 0, _identified(name, writer_schema, schema_id))
    if data[:2] == SINGLE_OBJECT_MARKER:
        return _read(name, data, _SINGLE_OBJECT_HEADER, _released(contract(name), data))
    if data[:1] == bytes([CONFLUENT_MAGIC]):
        if len(data) < _CONFLUENT_HEADER:
            raise MalformedMessage(Reason.MALFORMED, f"{len(data)} bytes end inside the Confluent header")
        framed_id = int.from_bytes(data[1:_CONFLUENT_HEADER], "big")
        return _read(name, data, _CONFLUENT_HEADER, _identified(name, writer_schema, framed_id))
    start = f"it begins with {data[:4].hex(' ')}" if data else "it is empty"
    raise MalformedMessage(
        Reason.MALFORMED,
        f"neither Avro single-object encoding (c3 01) nor Confluent framing (00): {start}",
    )


def _identified(name: SchemaName, writer_schema: WriterSchema | None, schema_id: SchemaId) -> _Writer:
    """The writer of that id; of the current schema if no registry is configured."""
    if writer_schema is None:
        return _writer(name, contract(name).fingerprint)
    return _registered(name, writer_schema, schema_id)


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
def _registered(name: SchemaName, writer_schema: WriterSchema, schema_id: SchemaId) -> _Writer:
    try:
        parsed = parse_writer(writer_schema(schema_id))
        # A released version is read as such: the current one without resolution.
        return _of(name, contract(name).writers.get(schema_fingerprint(parsed), parsed))
    except LookupError as error:
        raise MalformedMessage(
            Reason.UNKNOWN_SCHEMA, f"the schema registry has no schema {schema_id}"
        ) from error
    except UnusableSchema as error:
        raise MalformedMessage(
            Reason.UNKNOWN_SCHEMA, f"schema {schema_id} of the registry is refused: {error}"
        ) from error


def _read(name: SchemaName, data: bytes, start: int, writer: _Writer) -> Datum:
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
