"""JSON messages to bytes and back, by the same schemas as Avro.

A record is an object with the schema's field names, UTF-8, without anything in front of it. A union is the plain value
(null or the value itself, not Avro-JSON's ``{"string": "x"}``), bytes are base64 (RFC 4648, section 4), an
enumeration is its symbol, a float the shortest decimal that reads back as the same float32.

Read as Avro resolution reads: a field that is missing gets its default, one that is not in the schema is passed
over, an unknown symbol becomes the enumeration's default. Everything else that does not fit is malformed.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

from fastavro import schemaless_writer

from schemas.bounds import MAX_ENTRIES, TooMuch, bounded
from schemas.contracts import SchemaName, contract
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

Convert = Callable[[Any, str], Any]
"""Converts one value; the text says where it stands. Raises `_Unfit`."""

_LARGEST = (2 - 2**-23) * 2.0**127
_INTEGERS = {"int": 31, "long": 63}


class _Unfit(ValueError):
    """A value that does not fit its schema; one line says where and why."""


def encode_record(record: SequenceRecord) -> bytes:
    """Raises ValueError or TypeError for a value that does not fit the schema."""
    return _encode("sequence_record", record_datum(record))


def encode_prediction(prediction: Prediction) -> bytes:
    """Raises ValueError or TypeError for a value that does not fit the schema."""
    return _encode("prediction", prediction_datum(prediction))


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """Raises ValueError or TypeError for a value that does not fit the schema."""
    return _encode("dead_letter", dead_letter_datum(letter))


def decode_record(data: bytes | None) -> SequenceRecord:
    """Raises `MalformedMessage`: null_value, malformed, or message_too_large where Avro's record would be."""
    datum = _decode("sequence_record", data)
    _check_bounds(datum)
    return record_of(datum)


def decode_prediction(data: bytes | None) -> Prediction:
    """Raises `MalformedMessage`: null_value or malformed."""
    return prediction_of(_decode("prediction", data))


def decode_dead_letter(data: bytes | None) -> DeadLetter:
    """Raises `MalformedMessage`: null_value or malformed."""
    return dead_letter_of(_decode("dead_letter", data))


def looks_like_json(data: bytes) -> bool:
    """Whether a value may be a JSON object; neither of the Avro framings begins like one."""
    return data[:64].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")[:1] == b"{"


def _encode(name: SchemaName, datum: Datum) -> bytes:
    value = _converters(name)[1](datum, "")
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _decode(name: SchemaName, data: bytes | None) -> Datum:
    if data is None:
        raise MalformedMessage(Reason.NULL_VALUE, "the message has no value")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_constant)
        datum: Datum = _converters(name)[0](value, "")
    except _Unfit as error:
        raise MalformedMessage(Reason.MALFORMED, f"the JSON is not a {name}: {error}") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError among them
        raise MalformedMessage(Reason.MALFORMED, f"it is not JSON ({error})") from error
    return datum


def _check_bounds(datum: Datum) -> None:
    """The bounds on maps and arrays are those of the same record in Avro."""
    schema = contract("sequence_record").current
    held = {name: "" if isinstance(value, str) else value for name, value in datum.items()}
    entries = sum(len(value) for value in held.values() if isinstance(value, dict | list))
    body = BytesIO()
    try:
        if entries > MAX_ENTRIES:  # before they are all encoded
            raise TooMuch(f"its maps and arrays have more than {MAX_ENTRIES} entries")
        schemaless_writer(body, schema, held)
        _bounds()(body.getvalue(), 0)
    except TooMuch as error:
        raise MalformedMessage(Reason.MESSAGE_TOO_LARGE, str(error)) from error


@cache
def _bounds() -> Callable[[bytes, int], None]:
    return bounded(contract("sequence_record").current)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Unfit("an object names a field twice")
    return found


def _constant(name: str) -> float:
    raise _Unfit(f"{name} is not a JSON number")


def converters_of(schema: dict[str, Any]) -> tuple[Convert, Convert]:
    """From JSON to data of a schema, and back.

    Args:
        schema: as fastavro has parsed it, of the kinds of types that the released schemas hold.
    """
    return _Compiler(_Reading()).convert(schema), _Compiler(_Writing()).convert(schema)


@cache
def _converters(name: SchemaName) -> tuple[Convert, Convert]:
    return converters_of(contract(name).current)


class _Reading:
    """JSON values to Avro's."""

    def string(self, value: Any, at: str) -> str:
        if not isinstance(value, str):
            raise _unfit(at, "a string", value)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise _Unfit(f"{at} holds half of a surrogate pair") from error
        return value

    def binary(self, value: Any, at: str) -> bytes:
        try:
            return base64.b64decode(self.string(value, at), validate=True)
        except binascii.Error as error:
            raise _Unfit(f"{at} is not base64") from error

    def number(self, value: Any, at: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _unfit(at, "a number", value)
        return _float32(value, at)

    def symbol(self, value: Any, at: str, symbols: list[str], default: str | None) -> str:
        if self.string(value, at) in symbols:
            return str(value)
        if default is None:
            raise _Unfit(f"{at} is not one of {', '.join(symbols)}")
        return default


class _Writing:
    """Avro's values to JSON."""

    def string(self, value: Any, at: str) -> str:
        if not isinstance(value, str):
            raise _unfit(at, "a string", value)
        return value

    def binary(self, value: Any, at: str) -> str:
        if not isinstance(value, bytes):
            raise _unfit(at, "bytes", value)
        return base64.b64encode(value).decode()

    def number(self, value: Any, at: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _unfit(at, "a number", value)
        return shortest_float32(_float32(value, at))

    def symbol(self, value: Any, at: str, symbols: list[str], default: str | None) -> str:
        if value not in symbols:
            raise _Unfit(f"{at} is not one of {', '.join(symbols)}")
        return str(value)


class _Compiler:
    """Makes a converter for each part of a schema; named types are known by the full names that they were parsed to.

    A kind of type that no released schema holds is a KeyError.
    """

    def __init__(self, leaves: _Reading | _Writing) -> None:
        self._leaves = leaves
        self._named: dict[str, Convert] = {}
        self._plain: dict[str, Convert] = {
            "string": leaves.string,
            "bytes": leaves.binary,
            "float": leaves.number,
            "double": _double,
            "boolean": _boolean,
            "null": _null,
            **{kind: _integer(bits) for kind, bits in _INTEGERS.items()},
        }

    def convert(self, schema: Any) -> Convert:
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            return self._plain.get(schema) or self._named[schema]
        match schema["type"]:
            case "record":
                made = self._record(schema)
            case "enum":
                made = self._enum(schema)
            case "array":
                return _array(self.convert(schema["items"]))
            case "map":
                return _map(self._plain["string"], self.convert(schema["values"]))
            case kind:
                return self._plain[kind]
        self._named[schema["name"]] = made
        return made

    def _record(self, schema: Any) -> Convert:
        fields = [(each["name"], self.convert(each["type"]), "default" in each) for each in schema["fields"]]
        defaults = {each["name"]: each["default"] for each in schema["fields"] if "default" in each}

        def convert(value: Any, at: str) -> Datum:
            if not isinstance(value, dict):
                raise _unfit(at or "it", "an object", value)
            inside = f"{at}." if at else ""
            found: Datum = {}
            for name, member, has_default in fields:
                if name in value:
                    found[name] = member(value[name], inside + name)
                elif has_default:
                    found[name] = member(defaults[name], inside + name)
                else:
                    raise _Unfit(f"{inside}{name} is missing")
            return found

        return convert

    def _enum(self, schema: Any) -> Convert:
        symbols, default = schema["symbols"], schema.get("default")
        return lambda value, at: self._leaves.symbol(value, at, symbols, default)

    def _union(self, branches: list[Any]) -> Convert:
        others = [self.convert(branch) for branch in branches if branch != "null"]
        if len(others) != 1 or len(branches) != 2:
            raise KeyError("a union other than of null and one type")
        (other,) = others
        return lambda value, at: None if value is None else other(value, at)


def _array(item: Convert) -> Convert:
    def convert(value: Any, at: str) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise _unfit(at, "an array", value)
        return [item(each, at) for each in value]

    return convert


def _map(key: Convert, member: Convert) -> Convert:
    def convert(value: Any, at: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _unfit(at, "an object", value)
        return {key(name, at): member(each, at) for name, each in value.items()}

    return convert


def _integer(bits: int) -> Convert:
    def convert(value: Any, at: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _unfit(at, "a whole number", value)
        if not -(1 << bits) <= value < 1 << bits:
            raise _Unfit(f"{at} is out of range")
        return value

    return convert


def _boolean(value: Any, at: str) -> bool:
    if not isinstance(value, bool):
        raise _unfit(at, "true or false", value)
    return value


def _null(value: Any, at: str) -> None:
    if value is not None:
        raise _unfit(at, "null", value)


def _double(value: Any, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unfit(at, "a number", value)
    try:
        held = float(value)
    except OverflowError:
        held = math.inf
    if not math.isfinite(held):
        raise _Unfit(f"{at} is not a finite number")
    return held


def _float32(value: float, at: str) -> float:
    """The value as float32 holds it."""
    try:
        held: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except (OverflowError, struct.error) as error:  # the second for a whole number of hundreds of digits
        raise _Unfit(f"{at} is out of range") from error
    if not math.isfinite(held):
        raise _Unfit(f"{at} is not finite")
    return held


def shortest_float32(value: float) -> float:
    """The float64 with the fewest decimal digits that reads back as this float32."""
    for digits in range(1, 9):
        short = float(f"{value:.{digits}g}")
        # Rounded up, the largest ones are out of range.
        if abs(short) <= _LARGEST and struct.unpack("<f", struct.pack("<f", short))[0] == value:
            return short
    return float(f"{value:.9g}")


def _unfit(at: str, wanted: str, value: Any) -> _Unfit:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return _Unfit(f"{at} is {kinds.get(type(value), 'a number')}, not {wanted}")
