"""Scores as the files show them: the shortest decimal that reads back as the same float32."""

from __future__ import annotations

import numpy as np


def float32_text(score: float | None) -> str:
    """The shortest decimal that reads back as the same float32; empty for None."""
    return "" if score is None else str(np.float32(score))


def as_printed(score: float) -> float:
    """The float64 that a program gets which reads the score from a file; it prints with the float32's few digits."""
    return float(float32_text(score))


def as_printed_or_none(score: float | None) -> float | None:
    """`as_printed`; None stays None."""
    return None if score is None else as_printed(score)
