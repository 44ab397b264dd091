"""Bounds on the work of decoding a message, checked on its bytes before a decoder sees them.

A map entry, an array item, a block of either and each byte of a number cost the decoder time and objects, but as little
as one byte of the message, and a broker stores thousands of them in a few bytes. fastavro decodes in one go, during
which no other thread of the process runs: a message of 4 MB could keep all of them for seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_ENTRIES = 1000
"""Of all maps and arrays of a message together."""
MAX_BYTES = 65_536
"""Of a map or an array, as it is encoded."""
_LONG_BYTES = 10
_FIXED_SIZES = {"null": 0, "boolean": 1, "float": 4, "double": 8}


class TooMuch(Exception):
    """A message is over the bounds; the text says over which."""


class _Cursor:
    """A place in the encoded message.

    Its methods raise EOFError where the message ends too early, and ValueError for a number that no length can be.
    """

    __slots__ = ("at", "data", "entries")

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.entries = 0

    def long(self) -> int:
        value = 0
        for place in range(_LONG_BYTES):
            if self.at >= len(self.data):
                raise EOFError("end of data")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
        raise ValueError(f"a number of more than {_LONG_BYTES} bytes")

    def skip(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"a length of {size}")
        self.at += size
        if self.at > len(self.data):
            raise EOFError("end of data")

    def skip_sized(self) -> None:
        """A string or bytes: a length and so many bytes."""
        self.skip(self.long())


Walk = Callable[[_Cursor], object]


def bounded(schema: Any) -> Callable[[bytes, int], None]:
    """A check of messages with this schema, which has been parsed by fastavro and holds no recursive type.

    The check takes a message and the place where its body begins.  Every item takes a byte at least
    (`schemas.contracts.parse_writer`).  It raises `TooMuch`, EOFError for a body that is cut
    short, and ValueError or IndexError for one that is damaged; what it passes may still be damaged.
    """
    walk = _walk(schema, {})

    def check(data: bytes, start: int) -> None:
        walk(_Cursor(data, start))

    return check


def _walk(schema: Any, named: dict[str, Walk]) -> Walk:
    """What moves a cursor over one value of this type; `named` are the types met so far."""
    if isinstance(schema, list):
        return _union([_walk(branch, named) for branch in schema])
    if isinstance(schema, str):
        return named.get(schema) or _primitive(schema)
    kind = schema["type"]
    match kind:
        case "map":
            return _collection(_fields([_Cursor.skip_sized, _walk(schema["values"], named)]))
        case "array":
            return _collection(_walk(schema["items"], named))
        case "record" | "error":
            walk = _fields([_walk(member["type"], named) for member in schema["fields"]])
        case "enum":
            walk = _Cursor.long
        case "fixed":
            walk = _fixed(schema["size"])
        case _:
            return _walk(kind, named)
    named[schema["name"]] = walk
    return walk


def _primitive(name: str) -> Walk:
    if name in ("int", "long"):
        return _Cursor.long
    if name in ("string", "bytes"):
        return _Cursor.skip_sized
    return _fixed(_FIXED_SIZES[name])


def _fixed(size: int) -> Walk:
    return lambda cursor: cursor.skip(size)


def _union(branches: list[Walk]) -> Walk:
    def walk(cursor: _Cursor) -> None:
        branch = cursor.long()
        if branch < 0:
            raise IndexError(f"a branch of {branch}")
        branches[branch](cursor)

    return walk


def _fields(members: list[Walk]) -> Walk:
    def walk(cursor: _Cursor) -> None:
        for member in members:
            member(cursor)

    return walk


def _collection(item: Walk) -> Walk:
    """Blocks of items: a count, if it is negative then a size too, and the items; a count of 0 is the end."""

    def walk(cursor: _Cursor) -> None:
        start = cursor.at
        while count := cursor.long():
            if count < 0:
                cursor.long()
            if abs(count) > len(cursor.data) - cursor.at:  # each takes a byte at least
                raise ValueError(f"a block of {abs(count)} entries")
            cursor.entries += abs(count)
            if cursor.entries > MAX_ENTRIES:
                raise TooMuch(f"its maps and arrays have more than {MAX_ENTRIES} entries")
            for _ in range(abs(count)):
                item(cursor)
                if cursor.at - start > MAX_BYTES:
                    raise TooMuch(f"one of its maps or arrays has more than {MAX_BYTES} bytes")

    return walk
