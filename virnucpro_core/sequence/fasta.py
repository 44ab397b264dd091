"""Read sequences from a FASTA, FASTQ or BAM file, compressed or not, one record at a time."""

from __future__ import annotations

import errno
import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

from virnucpro_core.errors import SequenceFileWarning
from virnucpro_core.sequence.bam import BAM_MAGIC, parse_bam
from virnucpro_core.sequence.compressed import CompressedDataError, Decompressed, decompressed
from virnucpro_core.sequence.records import MalformedRecords, Record, not_sequences, parse_records
from virnucpro_core.wording import one_line

STDIN = "-"
_SHOWN = 20


class SequenceFileError(ValueError):
    """A file that cannot be read as sequences; the message is one line with the cause and the cure."""


class NoRecords(SequenceFileError):
    """A file without records: an empty one, or one of blank lines or a BAM header alone.

    Attributes:
        cause: the message without its cure.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(f"{cause}: give a FASTA, FASTQ or BAM file with at least one record")
        self.cause = cause


def read_sequences(path: str, max_bases: int = sys.maxsize) -> Iterator[tuple[str, str | None, str]]:
    """The records of a file, in order, read as they are asked for.

    Args:
        path: a FASTA or FASTQ file, as it is or compressed with gzip, bzip2, xz or Zstandard, in UTF-8, or a BAM
            file (`virnucpro_core.sequence.bam`), detected by content; `-` reads standard input. Concatenated streams
            and padding are read as by the formats' own tools (`virnucpro_core.sequence.compressed`).
        max_bases: a sequence with more bases is cut after one more than these, so that it can be seen to be too long:
            memory is bounded, whatever a compressed file unpacks to.

    Yields:
        (id, description, sequence): the first word of the header, the rest of it or None, and the letters as
        they stand in the file, blanks between them removed. The sequence may be empty and is not validated.

    Raises:
        SequenceFileError: while iterating, when the file is missing, unreadable, empty, truncated, damaged, not
            UTF-8, or neither FASTA nor four-line FASTQ nor BAM, or when a record has no name.

    Warns:
        SequenceFileWarning: at the end, when bytes after the compressed data are passed over.
    """
    name = "standard input" if path == STDIN else path
    number = 0
    try:
        with _opened(path) as file, _content(file, name) as content:
            for number, (header, letters) in enumerate(_records(content, max_bases), start=1):
                words = header.split(None, 1)
                if not words:
                    raise SequenceFileError(
                        f"{name}: record {number} has no name: give it one after its > or @"
                    )
                sequence = letters.replace(" ", "") if " " in letters else letters
                if len(sequence) > max_bases:
                    sequence = sequence[: max_bases + 1]
                yield words[0], words[1].rstrip() if len(words) > 1 else None, sequence
    except (CompressedDataError, MalformedRecords) as error:
        raise SequenceFileError(f"{name} {error}") from error
    except OSError as error:
        raise SequenceFileError(f"{name} cannot be read: {_cause_and_cure(error)}") from error
    if number == 0:
        raise NoRecords(f"{name} has no records")


def _opened(path: str) -> AbstractContextManager[BinaryIO]:
    if path == STDIN:
        return nullcontext(sys.stdin.buffer)
    return Path(path).open("rb")


@contextmanager
def _content(opened: BinaryIO, name: str) -> Iterator[Decompressed]:
    """The content of an open file, decompressed where it is compressed; the file stays open."""
    content = decompressed(
        cast("io.BufferedIOBase", opened),
        lambda text: warnings.warn(SequenceFileWarning(f"{name} {text}"), stacklevel=1),
    )
    with content:
        if not content.peek(1):
            raise NoRecords(f"{name} is empty")
        yield content


def _records(content: Decompressed, max_bases: int) -> Iterator[Record]:
    """The records of a file, by its first byte: that of no FASTA or FASTQ file is B.

    A record of a BAM file is at most 2 GiB and held whole; of the others some more than `max_bases` letters are kept.
    """
    if content.peek(1)[:1] != BAM_MAGIC[:1]:
        yield from parse_records(content, max_bases)
        return
    start = content.read(len(BAM_MAGIC))
    if start != BAM_MAGIC:
        raise MalformedRecords(
            not_sequences((start + content.read(_SHOWN)).decode("utf-8", "surrogateescape"))
        )
    yield from parse_bam(content)
    if content.last_stream_bytes:
        raise MalformedRecords(
            "ends without the empty block that ends a BAM file: it is truncated, copy or download it again"
        )


def _cause_and_cure(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "there is no such file; check the path"
        case errno.EISDIR:
            return "it is a directory; name a file in it"
        case errno.EACCES | errno.EPERM:
            return "permission denied; make it readable for this user"
    return f"{one_line(error)}; check the file and its disk"
