"""What a run shows: a bar on a terminal, and everywhere a line of JSON for what is worth keeping."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from rich.progress import Progress

T = TypeVar("T")


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar while the block runs, if stdout is a terminal; gives a function that advances it by a count."""
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield partial(bar.advance, task)


def tracked(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """`items`, of which there are `total`, with a progress bar while they are taken."""
    with progress(what, total) as advance:
        for item in items:
            yield item
            advance(1)


def log(**values: Any) -> None:
    """One JSON line on stdout.

    Raises:
        ValueError: a number is NaN or infinite. A training whose loss is NaN has failed, and should end.
    """
    print(json.dumps(values, allow_nan=False), flush=True)
