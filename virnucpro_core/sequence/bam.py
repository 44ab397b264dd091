"""Read sequences from BAM: unmapped reads, single or paired, and what `samtools fasta` would give of mapped ones.

Format: SAM/BAM specification v1, section 4.2; the file is BGZF, a sequence of gzip members of which the last is empty.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntFlag
from typing import BinaryIO

from virnucpro_core.sequence.records import MalformedRecords, Record

BAM_MAGIC = b"BAM\1"
_PIECE = 1 << 20
"""Bytes that are read at once: a length in a damaged file is not believed before its bytes are there."""
_LETTERS = str.maketrans("0123456789abcdef", "=ACMGRSVTWYHKDBN")
"""From the hexadecimal digits of a sequence, four bits a letter, to letters."""
_COMPLEMENT = str.maketrans("ACMGRSVTWYHKDBN", "TGKCYSBAWRDMHVN")
_FIXED = struct.Struct("<iiBBHHHiiii")
"""Of an alignment: reference, position, bytes of the name, quality, bin, CIGAR operations, flag, letters; and of the
mate: reference, position, template length."""


class Flag(IntFlag):
    """Bits of an alignment's flag that matter here."""

    PAIRED = 0x1
    REVERSE = 0x10
    FIRST = 0x40
    LAST = 0x80
    SECONDARY = 0x100
    SUPPLEMENTARY = 0x800


def parse_bam(content: BinaryIO) -> Iterator[Record]:
    """The reads of a BAM file, each once and as it was sequenced.

    The two reads of a pair have one name in BAM: theirs get `_1` and `_2` (flags 77 and 141 where they are unmapped).
    Secondary and supplementary alignments repeat a read and are passed over. A read that is mapped to the reverse
    strand is turned back. A read without letters (`*`) is an empty sequence.

    Args:
        content: decompressed, behind the magic bytes.

    Raises:
        MalformedRecords: while iterating.
    """
    _skip_header(content)
    number = 0
    while head := content.read(4):
        number += 1
        head += _exactly(content, 4 - len(head), number)
        (size,) = struct.unpack("<i", head)
        if size < _FIXED.size:
            raise _damaged(number, f"it says that it has {size} bytes")
        record, flag = _alignment(_exactly(content, size, number), number)
        if not flag & (Flag.SECONDARY | Flag.SUPPLEMENTARY):
            yield record


def _skip_header(content: BinaryIO) -> None:
    """Pass over the text and the references."""
    _skip(content, _length(content))
    for _ in range(_length(content)):
        _skip(content, _length(content))
        _skip(content, 4)


def _alignment(block: bytes, number: int) -> tuple[Record, Flag]:
    _, _, name_bytes, _, _, operations, bits, letters, _, _, _ = _FIXED.unpack_from(block)
    flag = Flag(bits)
    start = _FIXED.size + name_bytes + 4 * operations
    end = start + (letters + 1) // 2
    if letters < 0 or name_bytes < 1 or end + letters > len(block):
        raise _damaged(number, "its lengths do not fit its size")
    raw_name = block[_FIXED.size : _FIXED.size + name_bytes]
    if not raw_name.endswith(b"\0") or not raw_name.isascii():
        raise _damaged(number, "its name is not ASCII that ends in a zero byte")
    sequence = block[start:end].hex()[:letters].translate(_LETTERS)
    if flag & Flag.REVERSE:
        sequence = sequence[::-1].translate(_COMPLEMENT)
    return (raw_name[:-1].decode("ascii") + _mate(flag), sequence), flag


def _mate(flag: Flag) -> str:
    """What tells a read from its mate."""
    if not flag & Flag.PAIRED:
        return ""
    return {Flag.FIRST: "_1", Flag.LAST: "_2"}.get(flag & (Flag.FIRST | Flag.LAST), "")


def _length(content: BinaryIO) -> int:
    (length,) = struct.unpack("<i", _exactly(content, 4, 0))
    if length < 0:
        raise MalformedRecords("is a damaged BAM file: a length in its header is negative; make it again")
    return int(length)


def _skip(content: BinaryIO, size: int) -> None:
    while size:
        piece = content.read(min(size, _PIECE))
        if not piece:
            raise _truncated(0)
        size -= len(piece)


def _exactly(content: BinaryIO, size: int, number: int) -> bytes:
    """The next `size` bytes. number: of the record that they belong to, 0 for the header."""
    pieces = []
    while size:
        piece = content.read(min(size, _PIECE))
        if not piece:
            raise _truncated(number)
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _truncated(number: int) -> MalformedRecords:
    where = f"record {number}" if number else "its header"
    return MalformedRecords(
        f"is a BAM file that ends in the middle of {where}: it is truncated, copy or download it again"
    )


def _damaged(number: int, why: str) -> MalformedRecords:
    return MalformedRecords(
        f"is a damaged BAM file: of record {number} {why}; repair the file or make it again"
    )
