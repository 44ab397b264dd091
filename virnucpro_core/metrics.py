"""What a set of frame scores is worth: AUROC and verdicts of frames, chunks and records, in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]


def auroc(scores: FloatArray, positive: npt.NDArray[np.bool_]) -> float:
    """The share of (positive, negative) pairs that the score puts in order, a tie counting one half.

    NaN when there is no positive or no negative.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which chunk each frame is of and which record each chunk is of; both sorted, chunks of no open frame
    left out. frame_chunk int [frames] (values 0..chunks-1, each present), chunk_record int [chunks]."""

    frame_chunk: IntArray
    chunk_record: IntArray

    @property
    def chunk_starts(self) -> IntArray:
        """The first frame of each chunk."""
        return np.searchsorted(self.frame_chunk, np.arange(len(self.chunk_record)))


def _maxima(scores: FloatArray, starts: IntArray) -> FloatArray:
    """Highest score per segment and column: [frames, 2] -> [segments, 2]."""
    return np.maximum.reduceat(scores, starts, axis=0)


def evaluate(
    scores: FloatArray, layout: Layout, labels: IntArray, groups: npt.NDArray[np.str_]
) -> dict[str, Any]:
    """Figures for frame scores [frames, 2] (columns others, virus).

    labels int [records] (1 is virus) and groups str [records] are indexed by layout.chunk_record. A chunk's
    and a record's verdict is VirNucPro's: virus if the highest virus score >= the highest others score; the
    AUROC ranks by the difference of the two. Chunks and records without an open frame have no verdict and are
    not counted.
    """
    chunk_best = _maxima(scores, layout.chunk_starts)
    records, record_starts = np.unique(layout.chunk_record, return_index=True)
    record_best = _maxima(chunk_best, record_starts)
    chunk_label = labels[layout.chunk_record] == 1
    frame_label = chunk_label[layout.frame_chunk]
    record_label = labels[records] == 1
    chunk_right = (chunk_best[:, 1] >= chunk_best[:, 0]) == chunk_label
    record_right = (record_best[:, 1] >= record_best[:, 0]) == record_label
    chunk_group = groups[layout.chunk_record]
    by_group: dict[str, Any] = {}
    for name in np.unique(groups[records]):
        of_chunks, of_records = chunk_group == name, groups[records] == name
        by_group[str(name)] = {
            "label": "virus" if bool(record_label[of_records].mean() >= 0.5) else "others",
            "chunks": int(of_chunks.sum()),
            "chunk_accuracy": round(float(chunk_right[of_chunks].mean()), 4),
            "records": int(of_records.sum()),
            "record_accuracy": round(float(record_right[of_records].mean()), 4),
        }
    return {
        "frames": len(scores),
        "frame_auroc": round(auroc(scores[:, 1], frame_label), 4),
        "chunks": len(chunk_best),
        "chunk_auroc": round(auroc(chunk_best[:, 1] - chunk_best[:, 0], chunk_label), 4),
        "chunk_accuracy": round(float(chunk_right.mean()), 4),
        "chunk_sensitivity": round(float(chunk_right[chunk_label].mean()), 4),
        "chunk_specificity": round(float(chunk_right[~chunk_label].mean()), 4),
        "records": len(records),
        "record_auroc": round(auroc(record_best[:, 1] - record_best[:, 0], record_label), 4),
        "record_accuracy": round(float(record_right.mean()), 4),
        "record_sensitivity": round(float(record_right[record_label].mean()), 4),
        "record_specificity": round(float(record_right[~record_label].mean()), 4),
        "by_group": by_group,
    }
