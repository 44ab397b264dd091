"""The accuracy that a bundle's manifest states, as rows for a terminal."""

from __future__ import annotations

from typing import Any

_LEFT_OUT = ("by_group", "by_novelty")
"""Long tables: `virnucpro models show --json` has them."""
_SHARES = ("accuracy", "sensitivity", "specificity")


def validation_rows(validation: dict[str, Any]) -> dict[str, str]:
    """What the entry `validation` of a manifest says, by name: plain values, and a line for each set of metrics.

    Lists and the tables by group are left out.
    """
    rows: dict[str, str] = {}
    for name, value in validation.items():
        if isinstance(value, int | float | str):
            rows[name] = str(value)
        elif isinstance(value, dict) and name not in _LEFT_OUT:
            if (figures := _figures(value)) is not None:
                rows[name] = figures
            else:
                rows |= {f"{name}, {inner}": line for inner, line in validation_rows(value).items()}
    return rows


def _figures(found: dict[str, Any]) -> str | None:
    """One line for the metrics of one kind of prediction; None if these are not such metrics."""
    numbers = {name: found.get(name) for name in ("auroc", "ece", *_SHARES)}
    if not all(isinstance(number, int | float) for number in numbers.values()):
        return None
    line = "AUROC {auroc:.3f}, right {accuracy:.1%} (viruses {sensitivity:.1%}, others {specificity:.1%})"
    count = found.get("pieces")
    return f"{line}, ECE {{ece:.3f}}".format(**numbers) + (
        f", of {count:,}" if isinstance(count, int) else ""
    )
