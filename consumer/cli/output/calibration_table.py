"""A calibration as a table for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from consumer.cli.output.alignment import aligned

_HEAD = ("calibration error", "pieces", "of viruses", "of the scores", "of the probability")


def calibration_table(about: dict[str, Any]) -> Iterator[str]:
    """The lines of what `virnucpro_core.evaluation.calibration_fit.fit_calibration` says of its fit."""
    yield (
        f"probability  fitted on {about['records']:,} records ({about['viruses']:,} viruses), measured by "
        f"cross-validation over {about['units']:,} records or groups in {about['folds']} folds"
    )
    rows: list[tuple[str, ...]] = [_HEAD]
    for name, found in about["by_length"].items():
        rows.append(
            (
                f"  {name}",
                f"{found['pieces']:,}",
                f"{found['of_viruses']:,}",
                f"{found['ece_of_scores']:.3f}",
                f"{found['ece']:.3f}",
            )
        )
    yield from aligned(rows)
