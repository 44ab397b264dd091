"""What a run shows: a bar on a terminal, and everywhere a line of JSON for what is worth keeping."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from rich.progress import track

T = TypeVar("T")


def bar(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """`items`, with a bar while they are taken where stdout is a terminal; total: how many, if they can't tell."""
    return track(items, what, total=total, transient=True) if sys.stdout.isatty() else items


def log(**values: Any) -> None:
    """One JSON line on stdout.

    Raises:
        ValueError: a number is NaN or infinite. A training whose loss is no number is over, and should end.
    """
    print(json.dumps(values, allow_nan=False), flush=True)
