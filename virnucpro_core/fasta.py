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
from contextlib import ExitStack
from typing import BinaryIO, NamedTuple, cast

import dnaio

STDIN = "-"

_READ_AHEAD = 64 * 1024
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_OPENERS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda file: cast(BinaryIO, gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast(BinaryIO, bz2.BZ2File(file)),
    b"\xfd7zXZ\x00": lambda file: cast(BinaryIO, lzma.LZMAFile(file)),
}
"""How to decompress, by the first bytes of the file: what a file is called says nothing about what is in it."""


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
        with ExitStack() as stack:
            for number, record in enumerate(_reader(path, name, stack), start=1):
                identifier, _, description = record.name.strip().partition(" ")
                if not identifier:
                    raise SequenceFileError(f"{name}: record {number} has no name: give it one after its > or @")
                yield identifier, description.strip() or None, record.sequence.replace(" ", "")
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
    except (zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise SequenceFileError(
            f"{name} has damaged compressed data ({_one_line(error)}): copy or download it again"
        ) from error
    except OSError as error:
        raise SequenceFileError(f"{name} cannot be read: {_cause_and_cure(error)}") from error
    if number == 0:
        raise SequenceFileError(f"{name} has no records: give a FASTA or FASTQ file with at least one")


def _reader(path: str, name: str, stack: ExitStack) -> Iterator[_Record]:
    """The records of the opened and decompressed file; `stack` closes what was opened."""
    file: BinaryIO = sys.stdin.buffer if path == STDIN else stack.enter_context(open(path, "rb"))
    raw = io.BufferedReader(cast(io.RawIOBase, file), _READ_AHEAD)
    stack.callback(raw.detach)  # leaves closing to whoever opened the file, and standard input open
    start = raw.peek(1)
    if not start:
        raise SequenceFileError(f"{name} is empty: give a FASTA or FASTQ file with at least one record")
    if start.startswith(_ZSTANDARD):
        raise SequenceFileError(f"{name} is compressed with Zstandard, which is not read: decompress it with zstd -d")
    text = raw
    for magic, decompress in _OPENERS.items():
        if start.startswith(magic):
            unpacked = stack.enter_context(decompress(cast(BinaryIO, raw)))
            text = io.BufferedReader(cast(io.RawIOBase, unpacked), _READ_AHEAD)
            start = text.peek(1)
    start = start.lstrip()
    if not start or start.startswith((b">", b"#")):
        reader: object = dnaio.FastaReader(cast(BinaryIO, _Unclosable(text)), sequence_class=_Record)
    elif start.startswith(b"@"):
        reader = dnaio.FastqReader(cast(BinaryIO, _Unclosable(text)), sequence_class=_Record)
    else:
        raise SequenceFileError(
            f"{name} is neither FASTA nor FASTQ: it starts with {start[:20]!r} instead of > or @; "
            "give a file of nucleotide sequences"
        )
    return iter(cast("Iterator[_Record]", reader))


def _cause_and_cure(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "there is no such file; check the path"
        case errno.EISDIR:
            return "it is a directory; name a file in it"
        case errno.EACCES | errno.EPERM:
            return "permission denied; make it readable for this user"
    return f"{error.strerror or _one_line(error)}; check the file and its disk"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
