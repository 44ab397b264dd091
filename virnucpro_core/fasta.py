"""Read sequences from a FASTA or FASTQ file, compressed or not, one record at a time."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import dnaio

STDIN = "-"

_READ_AHEAD = 64 * 1024
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_OPENERS: dict[bytes, Callable[[BinaryIO], io.BufferedIOBase]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
"""How to decompress, by the first bytes of a file: its name says nothing about what is in it."""


class SequenceFileError(ValueError):
    """A file that cannot be read as sequences; the message is one line with the cause and the cure."""


class _Record(NamedTuple):
    """What the reader makes of a record. Unlike dnaio's own type it takes names outside ASCII."""

    name: str
    sequence: str
    qualities: str | None


def read_sequences(path: str) -> Iterator[tuple[str, str | None, str]]:
    """The records of a file, in order, read as they are asked for.

    Args:
        path: a FASTA or FASTQ file, as it is or compressed with gzip, bzip2 or xz, told apart by content;
            `-` reads standard input.

    Yields:
        (id, description, sequence): the first word of the header, the rest of it or None, and the letters as
        they stand in the file, blanks between them removed. The sequence may be empty and is not validated.

    Raises:
        SequenceFileError: while iterating, when the file is missing, unreadable, empty, truncated, or
            neither FASTA nor FASTQ, or when a record has no name.
    """
    name = "standard input" if path == STDIN else path
    number = 0
    try:
        with _opened(path) as file:
            for number, record in enumerate(_reader(file, name), start=1):
                words = record.name.split(maxsplit=1)
                if not words:
                    raise SequenceFileError(
                        f"{name}: record {number} has no name: give it one after its > or @"
                    )
                description = words[1].rstrip() if len(words) > 1 else None
                yield words[0], description, record.sequence.replace(" ", "")
    except EOFError as error:
        raise SequenceFileError(
            f"{name} ends in the middle of its compressed data: it is truncated, copy or download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise SequenceFileError(
            f"{name} is not text after record {number}: give a FASTA or FASTQ file in ASCII or UTF-8"
        ) from error
    except dnaio.FileFormatError as error:
        raise SequenceFileError(
            f"{name} is damaged after record {number} ({_one_line(error)}): repair the file or make it again"
        ) from error
    except (zlib.error, lzma.LZMAError, OSError) as error:
        raise SequenceFileError(f"{name} cannot be read: {_cause_and_cure(error)}") from error
    if number == 0:
        raise SequenceFileError(f"{name} has no records: give a FASTA or FASTQ file with at least one")


def _opened(path: str) -> AbstractContextManager[BinaryIO]:
    if path == STDIN:
        return nullcontext(sys.stdin.buffer)
    return Path(path).open("rb", buffering=_READ_AHEAD)


def _reader(opened: BinaryIO, name: str) -> Iterator[_Record]:
    """The records of an open file, decompressed where it is compressed."""
    # Standard input is not wrapped once more: the outer buffer would wait until it is full.
    file = opened if isinstance(opened, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, opened))
    start = file.peek(1)
    if start.startswith(_ZSTANDARD):
        raise SequenceFileError(
            f"{name} is compressed with Zstandard, which is not read: decompress it with zstd -d"
        )
    for magic, decompress in _OPENERS.items():
        if start.startswith(magic):
            file = io.BufferedReader(cast(io.RawIOBase, decompress(file)), _READ_AHEAD)
            start = file.peek(1)
            break
    if not start:
        raise SequenceFileError(f"{name} is empty: give a FASTA or FASTQ file with at least one record")
    if start.startswith(b"@"):
        return cast("Iterator[_Record]", iter(dnaio.FastqReader(file, sequence_class=_Record)))
    start = start.lstrip()
    if start and not start.startswith((b">", b"#")):
        raise SequenceFileError(
            f"{name} is neither FASTA nor FASTQ: it starts with {start[:20]!r} instead of > or @; "
            "give a file of nucleotide sequences"
        )
    return cast("Iterator[_Record]", iter(dnaio.FastaReader(file, sequence_class=_Record)))


def _cause_and_cure(error: Exception) -> str:
    match getattr(error, "errno", None):
        case None:  # not the operating system's: a decompressor's
            return f"its compressed data is damaged ({_one_line(error)}); copy or download it again"
        case errno.ENOENT:
            return "there is no such file; check the path"
        case errno.EISDIR:
            return "it is a directory; name a file in it"
        case errno.EACCES | errno.EPERM:
            return "permission denied; make it readable for this user"
    return f"{_one_line(error)}; check the file and its disk"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
