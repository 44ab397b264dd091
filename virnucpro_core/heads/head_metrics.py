"""Metrics of a head on held-out records, and the agreement of two heads. In numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.evaluation.metrics import (
    FloatArray,
    binary_metrics,
    calibration,
    mean_margins,
    sigmoid,
    temperature,
)
from virnucpro_core.heads.splits import Part
from virnucpro_core.scoring.verdicts import verdict_margins

LEVELS = ("chunks", "records_by_mean_margin", "records_by_verdict")
"""Chunks by VirNucPro's verdict; whole records by the mean margin of their chunks, and by VirNucPro's verdict."""


def fitted_temperature(margins: FloatArray, part: Part) -> float:
    """What to divide margins [frames of the part] by so that the scores of its chunks are probabilities."""
    return temperature(verdict_margins(margins, part.frame_chunk), part.is_virus[part.chunk_record])


def head_metrics(margins: FloatArray, part: Part, temperature: float) -> dict[str, dict[str, Any]]:
    """AUROC with its interval, shares right and calibration, for each of `LEVELS`.

    The interval is a bootstrap over units (records, or groups), stratified by label.

    Args:
        margins: logit(virus) - logit(others) of the part's frames, before the temperature.
        temperature: what they are divided by; `ece_before` is the calibration without it.

    Returns:
        by level, the metrics of `virnucpro_core.evaluation.metrics.figures` and `ece_before`.
    """
    found = {}
    for level, (level_margins, record) in _levels(margins, part).items():
        positive = part.is_virus[record]
        resampled = 2 * part.unit[record] + positive  # a group may hold both labels
        found[level] = binary_metrics(level_margins / temperature, positive, resampled) | {
            "ece_before": calibration(level_margins, positive)["ece"]
        }
    return found


def agreement(one: FloatArray, other: FloatArray, part: Part) -> dict[str, float]:
    """How far two scorings of the same frames agree; margins after their temperatures [frames of the part].

    Returns:
        the share with the same verdict, of frames and of each of `LEVELS`, and the largest difference of a
        frame's virus score.
    """
    pairs = {"frames": (one, other)}
    mine, theirs = _levels(one, part), _levels(other, part)
    pairs |= {level: (mine[level][0], theirs[level][0]) for level in LEVELS}
    agree = {
        f"{level}_agree": round(float(((a >= 0) == (b >= 0)).mean()), 6) for level, (a, b) in pairs.items()
    }
    difference = float(np.abs(sigmoid(one) - sigmoid(other)).max())
    return agree | {"largest_score_difference": float(f"{difference:.3g}")}


def _levels(margins: FloatArray, part: Part) -> dict[str, tuple[FloatArray, NDArray[np.int64]]]:
    """Margins behind the verdicts, and the record of each."""
    chunks, records = verdict_margins(margins, part.frame_chunk), np.arange(len(part.is_virus))
    return {
        "chunks": (chunks, part.chunk_record),
        "records_by_mean_margin": (mean_margins(chunks, part.chunk_record), records),
        "records_by_verdict": (verdict_margins(margins, part.frame_record), records),
    }
