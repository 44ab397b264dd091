"""docs/performance's pictures, SVG, from the results in benchmarks/results: `make docs` draws them.

The same figures give the same bytes, so that a check can compare them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.tables import RESULTS, result

_COLOURS = ("#0b6e99", "#c8553d", "#5b8c5a", "#7d5ba6")
_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 200, 28, 48


@dataclass(frozen=True)
class Line:
    """A curve: its name, its points, its colour; a dashed one is a second figure of the same thing."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


def pictures(folder: Path = RESULTS) -> Iterator[tuple[str, str]]:
    """(file name, SVG) of each picture whose result is there."""
    for name, draw in PICTURES.items():
        found = result(name, folder)
        if found is not None:
            yield f"{name}.svg", draw(found)


def latency(found: Mapping[str, Any]) -> str:
    """p50 and p99 by offered load, milliseconds on a logarithmic scale."""
    lines = []
    for (way, figures), colour in zip(found["ways"].items(), _COLOURS, strict=False):
        for key, dashed in (("p50_ms", False), ("p99_ms", True)):
            points = [(row["load"], row[key]) for row in figures["loads"]]
            lines.append(Line(f"{way}, {key.removesuffix('_ms')}", points, colour, dashed))
    return chart(lines, "offered load, % of the capacity", "latency, ms")


def chart(lines: Sequence[Line], across: str, up: str) -> str:
    """A chart of lines: 0 to 100 across, logarithmic upwards."""
    values = [y for line in lines for _, y in line.points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)

    def x(value: float) -> float:
        return round(_LEFT + value / 100 * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        share = (math.log10(value) - low) / (high - low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
    ]
    for power in range(low, high + 1):
        for step in (1, 2, 5) if power < high else (1,):
            at = y(step * 10**power)
            parts.append(f'<path d="M{x(0)} {at}H{x(100)}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{step * 10**power:g}</text>')
    for percent in range(0, 101, 20):
        at = x(percent)
        parts.append(f'<path d="M{at} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#eee"/>')
        parts.append(f'<text x="{at}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{percent}</text>')
    parts.append(f'<text x="{x(50)}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(across)}</text>')
    parts.append(f'<text x="{_LEFT - 6}" y="{_TOP - 12}" text-anchor="end">{escape(up)}</text>')
    for number, line in enumerate(lines):
        path = "L".join(f"{x(across_)} {y(up_)}" for across_, up_ in line.points)
        style = ' stroke-dasharray="5 4"' if line.dashed else ""
        stroke = f'fill="none" stroke="{line.colour}" stroke-width="2"{style}'
        parts.append(f'<path d="M{path}" {stroke}/>')
        at = _TOP + 10 + 20 * number
        parts.append(f'<path d="M{_WIDTH - _RIGHT + 16} {at}h24" {stroke}/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 46}" y="{at + 4}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


PICTURES: dict[str, Callable[[Mapping[str, Any]], str]] = {"latency": latency}
"""By the name of the result."""
