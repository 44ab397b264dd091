"""VirNucPro's rule and the names of its two classes; everything that judges scores or margins asks here.

The rule: a chunk or a record is a virus if its highest virus score is at least its highest others score. It is applied
to scores where scores are there (`is_virus`), and to the log odds of frames where a model is measured or trained
(`verdict_margins`; its torch version is `training.model.losses.chunk_margins`, and a test compares the two).
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

CLASSES = ("others", "virus")
"""In the order of the classifier's outputs."""
OTHERS, VIRUS = range(len(CLASSES))
"""Columns of scores [n, 2]."""

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
Score = TypeVar("Score", float, FloatArray)


def is_virus(others: Score, virus: Score) -> bool | npt.NDArray[np.bool_]:
    """VirNucPro's rule: the highest others score and the highest virus score -> is it a virus? A tie is one.

    For two numbers, or element by element for two arrays of one shape.
    """
    return virus >= others


def calls(scores: FloatArray) -> npt.NDArray[np.bool_]:
    """The rule for each frame by itself: scores [frames, 2] -> bool [frames], True for a virus."""
    called: npt.NDArray[np.bool_] = np.asarray(is_virus(scores[:, OTHERS], scores[:, VIRUS]))
    return called


def verdict_margins(margins: FloatArray, owner: IntArray) -> FloatArray:
    """The margin behind the verdict on each chunk or record; it is a virus from 0 on.

    With margins m = logit(virus) - logit(others) of its frames the rule is max(m) + min(m) >= 0: the frame surest of
    a virus against the frame surest of the opposite. The half keeps what has one frame at that frame's own margin.

    margins [frames]; owner int [frames], sorted and without gaps.
    """
    starts = np.searchsorted(owner, np.arange(owner[-1] + 1 if len(owner) else 0))
    return (np.maximum.reduceat(margins, starts) + np.minimum.reduceat(margins, starts)) / 2
