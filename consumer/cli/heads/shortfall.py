"""Where a new head is far worse than the head of the model that it was made for."""

from __future__ import annotations

from typing import Any

_FAR_BELOW = 0.1
_LEAST_MORE_WRONG = 3
"""Fewer chunks or records may differ by chance alone."""
_LEVELS = {"chunks": "chunks", "records_by_verdict": "records, by VirNucPro's verdict"}
_CLASSES = {"sensitivity": "viruses", "specificity": "others"}


def shortfalls(report: dict[str, Any]) -> list[str]:
    """A line for each class and level at which the new head is at least ten percentage points below the base.

    Args:
        report: of `consumer.cli.heads.head_job.MadeHead`; its first entry of `measured` is the new head on its own
            features, the last ones are the base's.
    """
    new = report["measured"][0]
    base = next(found for found in reversed(report["measured"]) if found["features"] == new["features"])
    lines = []
    for level, title in _LEVELS.items():
        viruses = new[level]["of_viruses"]
        count = {"sensitivity": viruses, "specificity": new[level]["pieces"] - viruses}
        for metric, kind in _CLASSES.items():
            below = base[level][metric] - new[level][metric]
            if below >= _FAR_BELOW and below * count[metric] >= _LEAST_MORE_WRONG:
                lines.append(
                    f"{title}: of {count[metric]:,} {kind} {new[level][metric]:.1%} are right, with {base['head']} "
                    f"{base[level][metric]:.1%}"
                )
    return lines
