"""Sequence files as the commands take them: checked and counted before the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Record = tuple[str, str | None, str]
"""id, description or None, sequence"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is in a set of files."""

    records: int
    bases: int


def count_records(paths: Sequence[str]) -> Size | None:
    """Read files through once, so that a damaged one is refused before any work is done; None for a stream.

    Only regular files can be read twice: with standard input or a pipe among them nothing is read here.

    Raises:
        SequenceFileError: a file is missing, damaged, or not a sequence file.
    """
    from virnucpro_core.sequence.fasta import read_sequences

    if any(is_stream(path) for path in paths):
        return None
    records = bases = 0
    for path in paths:
        for _, _, sequence in read_sequences(path):
            records += 1
            bases += len(sequence)
    return Size(records, bases)


def is_stream(path: str) -> bool:
    """Whether this can be read only once. A missing file or a directory is not a stream: reading it gives the error."""
    from virnucpro_core.sequence.fasta import STDIN

    found = Path(path)
    return path == STDIN or (found.exists() and not found.is_file() and not found.is_dir())
