"""Whether data of one schema can be read with another, and whether a contract has kept its promise.

Follows Avro 1.12, "Schema Resolution". docs/schemas.md has the promise: SequenceRecord is BACKWARD compatible,
Prediction and DeadLetter are FULLY compatible, with every version ever released.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from fastavro.schema import parse_schema

from schemas.contracts import SchemaName, releases, schema_json

Compatibility = Literal["BACKWARD", "FULL"]
COMPATIBILITY: Mapping[SchemaName, Compatibility] = {
    "sequence_record": "BACKWARD",
    "prediction": "FULL",
    "dead_letter": "FULL",
}
"""BACKWARD: the current schema reads data of every version. FULL: every version reads data of the current one too."""

_PROMOTED = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
"""What a primitive type of the writer may be read as, beside itself."""


def incompatibilities(reader: object, writer: object) -> list[str]:
    """Why data that ``writer`` wrote cannot be read with ``reader``, a line each; none if it can.

    Args:
        reader, writer: schemas as parsed JSON; both must be valid Avro.
    """
    return list(_Check(reader, writer).problems())


def evolution_problems(name: SchemaName) -> list[str]:
    """Where the current schema breaks the promise to a released version, a line each."""
    return promise_problems(
        json.loads(schema_json(name)),
        {f"version {release.version}": release.schema for release in releases(name)},
        COMPATIBILITY[name],
    )


def promise_problems(current: object, released: Mapping[str, object], promise: Compatibility) -> list[str]:
    """Where a schema breaks a promise to earlier ones, a line each, beginning with the earlier one's key."""
    found: list[str] = []
    for version, schema in released.items():
        found += [f"{version} cannot be read: {line}" for line in incompatibilities(current, schema)]
        if promise == "FULL":
            found += [f"{version} cannot read it: {line}" for line in incompatibilities(schema, current)]
    return found


Pairs = tuple[tuple[str, str], ...]


class _Check:
    """One pair of schemas, with the named types of both."""

    def __init__(self, reader: object, writer: object) -> None:
        self._reader_names: dict[str, Any] = {}
        self._writer_names: dict[str, Any] = {}
        self._reader = parse_schema(cast("Any", reader), self._reader_names)
        self._writer = parse_schema(cast("Any", writer), self._writer_names)

    def problems(self) -> Iterator[str]:
        return self._compare(self._reader, self._writer, "", ())

    def _compare(self, reader: Any, writer: Any, at: str, around: Pairs) -> Iterator[str]:
        """``around`` are the records that these two stand in: a type that contains itself is compared once."""
        if isinstance(reader, str):
            reader = self._reader_names.get(reader, reader)
        if isinstance(writer, str):
            writer = self._writer_names.get(writer, writer)
        if isinstance(writer, list):
            for branch in writer:
                yield from self._compare(reader, branch, at, around)
            return
        if isinstance(reader, list):
            if all(any(self._compare(branch, writer, at, around)) for branch in reader):
                yield f"{at or 'it'} is {_kind(writer)}, which is not in the reader's union"
            return
        kind = _kind(writer)
        if _kind(reader) != kind:
            if _kind(reader) not in _PROMOTED.get(kind, ()):
                yield f"{at or 'it'} is {kind}, not {_kind(reader)}"
            return
        if kind in ("record", "enum", "fixed") and not _same_name(reader, writer):
            yield f"{at or 'it'} is a {writer['name']}, not a {reader['name']}"
            return
        match kind:
            case "record":
                yield from self._records(reader, writer, at, around)
            case "enum":
                unknown = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
                if unknown and "default" not in reader:
                    yield f"{at or 'it'} may be {', '.join(unknown)}, which the reader does not know"
            case "fixed" if reader["size"] != writer["size"]:
                yield f"{at or 'it'} has {writer['size']} bytes, not {reader['size']}"
            case "array":
                yield from self._compare(reader["items"], writer["items"], at, around)
            case "map":
                yield from self._compare(reader["values"], writer["values"], at, around)

    def _records(self, reader: Any, writer: Any, at: str, around: Pairs) -> Iterator[str]:
        pair = (reader["name"], writer["name"])
        if pair in around:
            return
        written = {member["name"]: member for member in writer["fields"]}
        for member in reader["fields"]:
            inside = f"{at}.{member['name']}" if at else member["name"]
            names = (member["name"], *member.get("aliases", ()))
            match next((written[name] for name in names if name in written), None):
                case None if "default" not in member:
                    yield f"{inside} is missing and has no default"
                case None:
                    pass
                case found:
                    yield from self._compare(member["type"], found["type"], inside, (*around, pair))


def _kind(schema: Any) -> str:
    if isinstance(schema, list):
        return "union"
    return str(schema["type"] if isinstance(schema, dict) else schema)


def _same_name(reader: Any, writer: Any) -> bool:
    """By the name without the namespace, or by an alias of the reader."""
    names = (reader["name"], *reader.get("aliases", ()))
    return writer["name"].rpartition(".")[2] in {name.rpartition(".")[2] for name in names}
