"""Columns for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Lines with the first column to the left and the others, numbers, to the right.

    A row of one cell is a heading and may be wider than its column; an empty row is an empty line.
    """
    tabled = [row for row in rows if len(row) > 1]
    columns = max(map(len, tabled), default=1)
    widths = [
        max((len(row[column]) for row in tabled if column < len(row)), default=0) for column in range(columns)
    ]
    for row in rows:
        name, *cells = row or ("",)
        shown = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=False)]
        yield "  ".join([f"{name:{widths[0]}}", *shown]).rstrip()
