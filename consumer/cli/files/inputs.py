"""Sequence files as the commands take them: checked and counted before the work, a progress bar during it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

Record = tuple[str, str | None, str]
"""id, description or None, sequence"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is in a set of files."""

    records: int
    bases: int


def measure(paths: Sequence[str]) -> Size | None:
    """Read files through once, so that a damaged one is refused before any work is done; None for a stream.

    Only regular files can be read twice: with standard input or a pipe among them nothing is read here.

    Raises:
        SequenceFileError: a file is missing, damaged, or no sequence file.
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
    """Can this be read only once? A missing file or a directory is no stream: reading it gives the error."""
    from virnucpro_core.sequence.fasta import STDIN

    found = Path(path)
    return path == STDIN or (found.exists() and not found.is_file() and not found.is_dir())


class Meter:
    """Counts records and bases, and shows them as a bar when it was given one."""

    def __init__(self, bar: Bar | None, task: TaskID | None) -> None:
        self._bar, self._task = bar, task
        self.records = self.bases = 0

    def add(self, bases: int) -> None:
        """One more record is done."""
        self.records += 1
        self.bases += bases
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.bases, records=self.records)


@contextmanager
def meter(doing: str, size: Size | None) -> Iterator[Meter]:
    """A progress bar on stderr while the block runs; nothing is shown where stderr is no terminal.

    Args:
        doing: what is done, for example "publishing".
        size: what there is to do, or None when nobody knows.
    """
    if not sys.stderr.isatty():
        yield Meter(None, None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    of_all = f" of {size.records:,}" if size else ""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[records]:,}" + of_all + " records, {task.completed:,} bases"),
        TimeElapsedColumn(),
        *((TextColumn("left"), TimeRemainingColumn()) if size else ()),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Meter(bar, bar.add_task(doing, total=size.bases if size else None, records=0))
