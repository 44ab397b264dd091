"""The header of a safetensors file, built and read, so that what lies behind it can be streamed and mapped."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_ALIGNMENT = 8
_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
_LONGEST = 100_000_000
"""Bytes; what the format allows."""


class Entry(NamedTuple):
    """One tensor: its type by the format's name ("F32", "I64"), shape, and bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Header(NamedTuple):
    """What a file says it holds: tensors by name, each with its first byte in the file; the metadata; all bytes."""

    tensors: dict[str, tuple[Entry, int]]
    metadata: dict[str, str]
    file_bytes: int


def header_of(
    entries: Mapping[str, Entry], metadata: Mapping[str, str] | None = None, size: int = 0
) -> bytes:
    """The first bytes of a file with these tensors, which follow in the order of `entries` without gaps.

    Args:
        metadata: free text by name.
        size: bytes that it is to have, blanks at its end making up for what is missing; 0 for as few as can be.

    Raises:
        ValueError: it has more than `size` bytes.
    """
    content: dict[str, Any] = {} if metadata is None else {_METADATA: dict(metadata)}
    end = 0
    for name, entry in entries.items():
        start, end = end, end + entry.nbytes
        content[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    missing = size - _LENGTH.size - len(text)
    if size and missing < 0:
        raise ValueError(f"a header of {len(text)} bytes does not fit into {size}")
    text += b" " * max(missing, 0)
    return _LENGTH.pack(len(text)) + text


def read_header(path: Path) -> Header:
    """The header of a file. Whether the tensors are complete is not checked: compare `Header.file_bytes`.

    Raises:
        ValueError: it is not a safetensors file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_LENGTH.size)
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else _LONGEST + 1
        if length > _LONGEST:
            raise ValueError("it does not start with a header")
        text = file.read(length)
    first = _LENGTH.size + length
    try:
        content = json.loads(text)
        metadata = content.pop(_METADATA, {})
        tensors = {}
        end = 0
        for name, entry in content.items():
            start_at, end_at = entry["data_offsets"]
            end = max(end, end_at)
            tensors[name] = (
                Entry(entry["dtype"], tuple(entry["shape"]), end_at - start_at),
                first + start_at,
            )
        return Header(tensors, dict(metadata), first + end)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header is damaged ({type(error).__name__})") from error
