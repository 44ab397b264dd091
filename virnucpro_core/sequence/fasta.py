"""Read sequences from a FASTA or FASTQ file, compressed or not, one record at a time."""

from __future__ import annotations

import errno
import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from virnucpro_core.errors import SequenceFileWarning
from virnucpro_core.sequence.compressed import CompressedDataError, decompressed
from virnucpro_core.sequence.records import MalformedRecords, parse_records
from virnucpro_core.wording import one_line

STDIN = "-"


class SequenceFileError(ValueError):
    """A file that cannot be read as sequences; the message is one line with the cause and the cure."""


def read_sequences(path: str) -> Iterator[tuple[str, str | None, str]]:
    """The records of a file, in order, read as they are asked for.

    Args:
        path: a FASTA or FASTQ file, as it is or compressed with gzip, bzip2, xz or Zstandard, detected by
            content, in UTF-8; `-` reads standard input. Concatenated streams and padding are read as by the
            formats' own tools (`virnucpro_core.sequence.compressed`).

    Yields:
        (id, description, sequence): the first word of the header, the rest of it or None, and the letters as
        they stand in the file, blanks between them removed. The sequence may be empty and is not validated.

    Raises:
        SequenceFileError: while iterating, when the file is missing, unreadable, empty, truncated, damaged, not
            UTF-8, or neither FASTA nor four-line FASTQ, or when a record has no name.

    Warns:
        SequenceFileWarning: at the end, when bytes after the compressed data are passed over.
    """
    name = "standard input" if path == STDIN else path
    number = 0
    try:
        with _opened(path) as file, _as_text(file, name) as text:
            for number, record in enumerate(parse_records(text), start=1):
                words = record.header.split(maxsplit=1)
                if not words:
                    raise SequenceFileError(
                        f"{name}: record {number} has no name: give it one after its > or @"
                    )
                description = words[1].rstrip() if len(words) > 1 else None
                yield words[0], description, record.sequence.replace(" ", "")
    except (CompressedDataError, MalformedRecords) as error:
        raise SequenceFileError(f"{name} {error}") from error
    except OSError as error:
        raise SequenceFileError(f"{name} cannot be read: {_cause_and_cure(error)}") from error
    if number == 0:
        raise SequenceFileError(f"{name} has no records: give a FASTA or FASTQ file with at least one")


def _opened(path: str) -> AbstractContextManager[BinaryIO]:
    if path == STDIN:
        return nullcontext(sys.stdin.buffer)
    return Path(path).open("rb")


@contextmanager
def _as_text(opened: BinaryIO, name: str) -> Iterator[TextIO]:
    """The content of an open file, decompressed where it is compressed; the file stays open."""
    content = decompressed(
        cast("io.BufferedIOBase", opened),
        lambda text: warnings.warn(SequenceFileWarning(f"{name} {text}"), stacklevel=1),
    )
    with content, io.TextIOWrapper(content, encoding="utf-8", errors="surrogateescape") as text:
        if not content.peek(1):
            raise SequenceFileError(f"{name} is empty: give a FASTA or FASTQ file with at least one record")
        yield text


def _cause_and_cure(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "there is no such file; check the path"
        case errno.EISDIR:
            return "it is a directory; name a file in it"
        case errno.EACCES | errno.EPERM:
            return "permission denied; make it readable for this user"
    return f"{one_line(error)}; check the file and its disk"
