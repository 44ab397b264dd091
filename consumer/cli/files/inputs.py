"""Sequence files as the commands take them: checked and counted before the work."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from virnucpro_core.errors import SequenceFileWarning

_SHOWN_LETTERS = 60

Record = tuple[str, str | None, str]
"""id, description or None, sequence"""

Reader = Callable[[str], Iterator[Record]]
"""Reads one file, as `read_sequences` does and with its errors."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is in a set of files."""

    records: int
    bases: int


def count_records(paths: Sequence[str], read: Reader | None = None) -> Size | None:
    """Read files through once, so that a damaged one is refused before any work is done; None for a stream.

    Only regular files can be read twice: with standard input or a pipe among them nothing is read here.

    Args:
        read: in place of `read_sequences`.

    Raises:
        SequenceFileError: a file is missing, damaged, or not a sequence file.
    """
    from virnucpro_core.sequence.fasta import read_sequences

    if any(is_stream(path) for path in paths):
        return None
    records = bases = 0
    for path in paths:
        for _, _, sequence in (read or read_sequences)(path):
            records += 1
            bases += len(sequence)
    return Size(records, bases)


def read_any(path: str, max_bases: int = sys.maxsize) -> Iterator[Record]:
    """The records of `read_sequences`; of a file without records none, with a warning in place of the error."""
    from virnucpro_core.sequence.fasta import NoRecords, read_sequences

    try:
        yield from read_sequences(path, max_bases)
    except NoRecords as error:
        warnings.warn(SequenceFileWarning(error.cause), stacklevel=1)


def read_nucleotides(path: str) -> Iterator[Record]:
    """For `publish`: yield the records of `read_sequences`, up to the first letter that is not a nucleotide code.

    Raises:
        SequenceFileError: also for that record; names file, record and letter.
    """
    from virnucpro_core.sequence.fasta import STDIN, SequenceFileError, read_sequences
    from virnucpro_core.sequence.validation import InvalidSequence, check_letters

    for number, record in enumerate(read_sequences(path), start=1):
        try:
            check_letters(record[2])
        except InvalidSequence as error:
            name = "standard input" if path == STDIN else path
            shown = record[0] if len(record[0]) <= _SHOWN_LETTERS else f"{record[0][:_SHOWN_LETTERS]}..."
            raise SequenceFileError(
                f"{name}: record {number} ({shown!r}): {error.detail}; send it all the same with --no-check"
            ) from error
        yield record


def named(path: Path) -> dict[str, str | None]:
    """Name and sha256 of a file that was read, for a report; a pipe cannot be read again, and has no sha256."""
    from virnucpro_core.hashing import sha256_of

    return {"name": path.name, "sha256": None if is_stream(str(path)) else sha256_of(path)}


def is_stream(path: str) -> bool:
    """Whether this can be read only once. A missing file or a directory is not a stream: reading it gives the error."""
    from virnucpro_core.sequence.fasta import STDIN

    found = Path(path)
    return path == STDIN or (found.exists() and not found.is_file() and not found.is_dir())
