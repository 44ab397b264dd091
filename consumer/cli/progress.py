"""Progress bars: on stderr while long work runs, only where stderr is a terminal, and not with --quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from consumer.cli.verbosity import Verbosity, verbosity

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from consumer.cli.files.inputs import Size
    from virnucpro_core.heads.training import EpochDone

Update = Callable[..., Any]
"""Changes the bar; takes the keyword arguments of rich's `Progress.update`."""


class Meter:
    """Counts records and bases, and shows them on a bar."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self.records = self.bases = self._shown = 0

    def add(self, bases: int) -> None:
        """One more record is done."""
        self.records += 1
        self.bases += bases
        self._show(self.bases)

    def within(self, bases: int) -> None:
        """About `bases` bases of the next record are done; the bar never goes back."""
        self._show(self.bases + bases)

    def _show(self, bases: int) -> None:
        self._shown = max(self._shown, bases)
        self._update(completed=self._shown, records=self.records)


@contextmanager
def record_bar(doing: str, size: Size | None) -> Iterator[Meter]:
    """A bar over the records of sequence files.

    Args:
        doing: what is done, for example "publishing".
        size: what there is to do, None if unknown.
    """

    def columns() -> tuple[ProgressColumn, ...]:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        of_all = f" of {size.records:,}" if size else ""
        return (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[records]:,}" + of_all + " records, {task.completed:,} bases"),
            TimeElapsedColumn(),
            *((TextColumn("left"), TimeRemainingColumn()) if size else ()),
        )

    with _bar(columns, doing, size.bases if size else None, records=0) as update:
        yield Meter(update)


@contextmanager
def byte_bar(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over `total` bytes; gives what is called with the number of each piece's."""

    def columns() -> tuple[ProgressColumn, ...]:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

        return TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()

    with _bar(columns, doing, total) as update:
        yield lambda count: update(advance=count)


@contextmanager
def epoch_bar(epochs: int) -> Iterator[EpochDone]:
    """A bar over the epochs of a training, with the loss of the last one."""

    def columns() -> tuple[ProgressColumn, ...]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        return (
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
        )

    with _bar(columns, "training, epoch", epochs, loss=float("nan")) as update:
        yield lambda _, loss: update(advance=1, loss=loss)


@contextmanager
def waiting(doing: str) -> Iterator[None]:
    """A line that says what is done, and for how long, while nothing of it can be counted."""

    def columns() -> tuple[ProgressColumn, ...]:
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        return SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()

    with _bar(columns, doing, None):
        yield


@contextmanager
def _bar(
    columns: Callable[[], tuple[ProgressColumn, ...]], doing: str, total: int | None, **fields: Any
) -> Iterator[Update]:
    if not sys.stderr.isatty() or verbosity() < Verbosity.NORMAL:
        yield _show_nothing
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns(), console=Console(stderr=True), transient=True) as bar:
        yield partial(bar.update, bar.add_task(doing, total=total, **fields))


def _show_nothing(**_: Any) -> None:
    """stderr is not a terminal, or the command is quiet."""
