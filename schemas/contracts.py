"""The released Avro schemas: which there are, what identifies them, which ones are safe to read.

A contract is one message type: its current schema (``avsc/NAME.avsc``) and every version of it
that was ever released (``history/NAME/vN.avsc``), each known by its fingerprint, CRC-64-AVRO of
the Parsing Canonical Form (Avro 1.12 specification, "Schema Fingerprints").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal, get_args

from fastavro.schema import SchemaParseException, fingerprint, parse_schema, to_parsing_canonical_form

SchemaName = Literal["sequence_record", "prediction", "dead_letter"]
SCHEMA_NAMES: tuple[SchemaName, ...] = get_args(SchemaName)

_NAMED_TYPES = ("record", "error", "enum", "fixed")


class UnusableSchema(ValueError):
    """A writer's schema that is invalid Avro, or that could not be read in bounded time and memory."""


@dataclass(frozen=True, slots=True)
class Contract:
    """One message type, its schemas parsed once.

    ``writers`` maps the 8-byte little-endian fingerprint of each released version, the current
    one included, to its schema.
    """

    name: SchemaName
    current: dict[str, Any]
    fingerprint: bytes
    writers: Mapping[bytes, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Release:
    """One released version of a message type: its number, from 1, its text, and its fingerprint, 8 bytes."""

    version: int
    text: str
    fingerprint: bytes

    @property
    def schema(self) -> dict[str, Any]:
        """The schema as parsed JSON, documentation and defaults included."""
        parsed: dict[str, Any] = json.loads(self.text)
        return parsed


@cache
def releases(name: SchemaName) -> tuple[Release, ...]:
    """Every released version of a contract, the oldest first; the last one is the current schema."""
    texts = {
        int(file.name.removeprefix("v").removesuffix(".avsc")): file.read_text(encoding="utf-8")
        for file in (files("schemas") / "history" / name).iterdir()
        if file.name.endswith(".avsc")
    }
    return tuple(
        Release(version, text, schema_fingerprint(json.loads(text)))
        for version, text in sorted(texts.items())
    )


@cache
def contract(name: SchemaName) -> Contract:
    """The contract of that name, loaded from the package on first use."""
    return load_contract(name, files("schemas"))


def load_contract(name: SchemaName, root: Traversable) -> Contract:
    """Read ``avsc/NAME.avsc`` and ``history/NAME/*.avsc`` below ``root``.

    Raises OSError when a file is missing, `UnusableSchema` or json.JSONDecodeError when it is not a schema.
    """
    text = (root / "avsc" / f"{name}.avsc").read_text(encoding="utf-8")
    # The reader keeps what canonical form drops: defaults and aliases decide how older data is read.
    current: dict[str, Any] = parse_schema(json.loads(text))  # type: ignore[assignment]
    current_fingerprint = schema_fingerprint(current)
    writers = {current_fingerprint: current}
    for file in (root / "history" / name).iterdir():
        if file.name.endswith(".avsc"):
            released = json.loads(file.read_text(encoding="utf-8"))
            writers.setdefault(schema_fingerprint(released), parse_writer(released))
    return Contract(name, current, current_fingerprint, writers)


def schema_json(name: SchemaName) -> str:
    """The text of the current schema, documentation included, as a schema registry takes it.

    Raises ValueError for a name that is not in `SCHEMA_NAMES`.
    """
    if name not in SCHEMA_NAMES:
        raise ValueError(f"no schema {name!r}; there are {', '.join(SCHEMA_NAMES)}")
    return (files("schemas") / "avsc" / f"{name}.avsc").read_text(encoding="utf-8")


def schema_fingerprint(schema: dict[str, Any]) -> bytes:
    """CRC-64-AVRO of the Parsing Canonical Form, 8 bytes, little-endian as on the wire."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


def parse_writer(schema: object) -> dict[str, Any]:
    """Prepare another writer's schema; raises `UnusableSchema`.

    Only the canonical form is kept: logical types would turn a uuid string into a UUID object, and
    defaults and aliases of a writer mean nothing to a reader.

    Refused are recursive types, since fastavro's compiled reader has no depth limit and a long
    message overflows the C stack; and values of no bytes outside a union (null, a record without
    fields, fixed of size 0), since a block count of 2**62 such items fits in ten bytes.  In what is
    left every value takes at least one byte, so that the work is linear in the message.
    """
    try:
        canonical = json.loads(to_parsing_canonical_form(schema))  # type: ignore[arg-type]
        if not isinstance(canonical, dict) or canonical.get("type") != "record":
            raise UnusableSchema("it is not a record")
        _check_bounded(canonical, ())
        parsed: dict[str, Any] = parse_schema(canonical)  # type: ignore[assignment]
    except UnusableSchema:
        raise
    except (SchemaParseException, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnusableSchema(f"it is not valid Avro ({type(error).__name__}: {error})") from error
    except RecursionError as error:
        raise UnusableSchema("it is nested too deeply") from error
    return parsed


def _check_bounded(schema: Any, open_names: tuple[str, ...]) -> None:
    """Walk a schema in canonical form; ``open_names`` are the types around this one."""
    if isinstance(schema, list):
        for branch in schema:
            if branch != "null":
                _check_bounded(branch, open_names)
        return
    if isinstance(schema, str):
        if schema in open_names:
            raise UnusableSchema(f"the type {schema} contains itself")
        if schema == "null":
            raise UnusableSchema("it has a null outside a union")
        return
    kind = schema["type"]
    if kind not in _NAMED_TYPES:
        _check_bounded(schema["items"] if kind == "array" else schema["values"], open_names)
        return
    if kind == "fixed" and schema["size"] < 1:
        raise UnusableSchema(f"the type {schema['name']} has no bytes")
    if kind in ("record", "error"):
        if not schema["fields"]:
            raise UnusableSchema(f"the type {schema['name']} has no fields")
        for member in schema["fields"]:
            _check_bounded(member["type"], (*open_names, schema["name"]))
