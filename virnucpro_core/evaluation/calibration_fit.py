"""Fits a calibration (`virnucpro_core.scoring.calibration`) on labelled records, and measures it by cross-validation.

A model is used on reads and on genomes, so the probability must hold for short and for long pieces: it is fitted on
single chunks, on pieces of 1 kb and 5 kb cut from the records, and on whole records. Each of these length classes
counts the same. In each, among pieces of about as many chunks, the more frequent label is weighted down to the rarer
one, and where one label is missing the pieces are left out: the length of a piece alone must say nothing about its
label. The loss is the cross-entropy with Platt's targets (Platt 1999): (n + 1) / (n + 2) in place of 1, for n records
of the label, which keeps the numbers finite where the labels can be separated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from virnucpro_core.evaluation.labelled_chunks import LabelledChunks
from virnucpro_core.evaluation.metrics import BoolArray, FloatArray, IntArray, calibration, sigmoid
from virnucpro_core.scoring.calibration import MOST_MARGIN, Calibration

LENGTH_CLASSES = {"chunk": 0, "1 kb": 1_000, "5 kb": 5_000}
"""Bases of the pieces of each length class, cut to whole chunks; `WHOLE` is the fourth."""
WHOLE = "whole"
MIN_UNITS = 4
"""Records, or groups, that each label needs."""
FOLDS = 5
_OCTAVE = float(np.log(4))
"""Pieces are of about as many chunks if their numbers have the same whole logarithm to this base."""
_STEPS = 100
_RIDGE = 1e-4
"""Weight of the squared distance from the scores as they are; it decides only where the data says nothing."""
_AS_IT_IS = np.array([0.0, 1.0, 0.0, 0.0])
"""intercept, margin, log_chunks, interaction of sigmoid(mean margin)."""


class CalibrationError(ValueError):
    """No calibration can be fitted; the message is one line with the cause and the cure."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Pieces of records, all arrays [pieces]: mean margin, natural logarithm of the number of chunks, record, class."""

    mean: FloatArray
    log_chunks: FloatArray
    record: IntArray
    length_class: npt.NDArray[np.str_]


def fit_calibration(chunks: LabelledChunks, seed: int = 1) -> Calibration:
    """Fit on all records; what cross-validation says of the fit is in `about`.

    Args:
        seed: of the folds.

    Returns:
        the calibration. `about` has `records`, `viruses`, `units`, `folds`, `seed`, and `by_length`: for each length
        class `pieces`, `of_viruses`, and the expected calibration error `ece` of probabilities of folds that had no
        part in the fit, `ece_of_scores` that of sigmoid(mean margin), weighted as in the fit.

    Raises:
        CalibrationError: a label has fewer than `MIN_UNITS` units, or the model does not rank viruses above others.
    """
    pieces = _pieces_of(chunks)
    design, positive = _design(pieces), chunks.is_virus[pieces.record]
    fold = _folds(chunks, seed)
    told = np.full(len(pieces.mean), np.nan)
    for left_out in range(int(fold.max()) + 1):
        inside = fold[pieces.record] != left_out
        told[~inside] = design[~inside] @ _fit(pieces, design, positive, inside)
    everything = np.ones(len(told), dtype=bool)
    intercept, margin, log_chunks, interaction = _fit(pieces, design, positive, everything).tolist()
    weights = _weights(pieces, everything, positive)
    about = {
        "records": len(chunks.is_virus),
        "viruses": int(chunks.is_virus.sum()),
        "units": len(np.unique(chunks.unit)),
        "folds": int(fold.max()) + 1,
        "seed": seed,
        "by_length": _by_length(pieces, told, positive, weights),
    }
    most = round(float(np.exp(pieces.log_chunks[weights > 0].max())))
    try:
        return Calibration(intercept, margin, log_chunks, interaction, most, about)
    except ValueError as error:
        raise CalibrationError(
            f"no calibration fits these records ({error}): the model does not rank their viruses above the others; "
            "check the labels"
        ) from error


def _pieces_of(chunks: LabelledChunks) -> _Pieces:
    margins = np.clip(chunks.margins, -MOST_MARGIN, MOST_MARGIN)
    found: list[_Pieces] = []
    # A tail that is shorter than a piece is left out; so is one whose last chunks have no open frame.
    ends = np.zeros(len(chunks.is_virus), dtype=np.int64)
    np.maximum.at(ends, chunks.owner, chunks.number + 1)
    sizes: set[int] = set()
    for name, bases in LENGTH_CLASSES.items():
        size = max(1, round(bases / chunks.expected_length))
        if size in sizes:  # a chunk is as long as the piece
            continue
        sizes.add(size)
        place = chunks.number // size
        is_full = (place + 1) * size <= ends[chunks.owner]
        found.append(_grouped(name, margins, chunks.owner, place, is_full))
    everything = np.ones(len(margins), dtype=bool)
    found.append(_grouped(WHOLE, margins, chunks.owner, np.zeros_like(chunks.number), everything))
    return _Pieces(
        np.concatenate([part.mean for part in found]),
        np.concatenate([part.log_chunks for part in found]),
        np.concatenate([part.record for part in found]),
        np.concatenate([part.length_class for part in found]),
    )


def _grouped(name: str, margins: FloatArray, owner: IntArray, place: IntArray, taken: BoolArray) -> _Pieces:
    """The chunks of one record and place together are a piece."""
    records, places = owner[taken], place[taken]
    first = np.flatnonzero((np.diff(records, prepend=-1) != 0) | (np.diff(places, prepend=-1) != 0))
    counts = np.diff(first, append=len(records))
    sums = np.add.reduceat(margins[taken], first) if len(first) else np.empty(0)
    return _Pieces(sums / counts, np.log(counts), records[first], np.full(len(counts), name))


def _folds(chunks: LabelledChunks, seed: int) -> IntArray:
    """The fold of each record: whole units, those of either label spread evenly. int [records]"""
    rng = np.random.default_rng(seed)
    units = int(chunks.unit.max()) + 1 if len(chunks.unit) else 0
    has = [np.bincount(chunks.unit, chunks.is_virus == label, minlength=units) > 0 for label in (True, False)]
    least = min(int(there.sum()) for there in has)
    if least < MIN_UNITS:
        raise CalibrationError(
            f"{int(has[0].sum())} viral records or groups and {int(has[1].sum())} others have an open frame, and at "
            f"least {MIN_UNITS} of each are needed for a calibration: label more records"
        )
    folds = min(FOLDS, least)
    of_unit = np.zeros(units, dtype=np.int64)
    viruses, others = has
    for members in (viruses & others, viruses & ~others, others & ~viruses):
        shuffled = rng.permutation(np.flatnonzero(members))
        of_unit[shuffled] = np.arange(len(shuffled)) % folds
    return of_unit[chunks.unit]


def _design(pieces: _Pieces) -> FloatArray:
    """float [pieces, 4], in the order of `_AS_IT_IS`."""
    return np.stack(
        [np.ones_like(pieces.mean), pieces.mean, pieces.log_chunks, pieces.log_chunks * pieces.mean], axis=1
    )


def _weights(pieces: _Pieces, taken: BoolArray, positive: BoolArray) -> FloatArray:
    """As the head of this module says; 0 for what is not taken. They add up to 1, if both labels are there."""
    weights = np.zeros(len(taken))
    octave = np.floor(pieces.log_chunks / _OCTAVE + 1e-9)
    for name in np.unique(pieces.length_class):
        of_class = taken & (pieces.length_class == name)
        found = np.zeros(len(taken))
        for place in np.unique(octave[of_class]):
            labels = [of_class & (octave == place) & label for label in (positive, ~positive)]
            rarer = min(int(label.sum()) for label in labels)
            for label in labels:
                found[label] = rarer / max(int(label.sum()), 1)
        weights += found / (found.sum() or 1.0)
    total: float = weights.sum()
    return weights / (total or 1.0)


def _fit(pieces: _Pieces, design: FloatArray, positive: BoolArray, taken: BoolArray) -> FloatArray:
    """The four numbers, by Newton's method, from the pieces that are taken. An interaction below 0 is set to 0: the
    mean of more chunks cannot say less."""
    weights = _weights(pieces, taken, positive)
    viruses, others = (len(np.unique(pieces.record[taken & label])) for label in (positive, ~positive))
    targets = np.where(positive, (viruses + 1) / (viruses + 2), 1 / (others + 2))
    theta = _newton(design, targets, weights)
    if theta[3] < 0:
        theta = np.append(_newton(design[:, :3], targets, weights), 0.0)
    return theta


def _newton(design: FloatArray, targets: FloatArray, weights: FloatArray) -> FloatArray:
    """The least weighted cross-entropy; each step is halved until it does not raise the loss."""
    start = _AS_IT_IS[: design.shape[1]]

    def loss(theta: FloatArray) -> float:
        logits = design @ theta
        fit = float(weights @ (np.logaddexp(0, logits) - targets * logits))
        return fit + _RIDGE * float(((theta - start) ** 2).sum())

    theta = start.copy()
    for _ in range(_STEPS):
        told = sigmoid(design @ theta)
        gradient = design.T @ (weights * (told - targets)) + 2 * _RIDGE * (theta - start)
        curvature = (design * (weights * told * (1 - told))[:, None]).T @ design
        step = np.linalg.solve(curvature + 2 * _RIDGE * np.eye(len(theta)), gradient)
        scale, before = 1.0, loss(theta)
        while loss(theta - scale * step) > before and scale > 1e-6:
            scale /= 2
        theta -= scale * step
        if np.abs(scale * step).max() < 1e-9:
            break
    return theta


def _by_length(pieces: _Pieces, told: FloatArray, positive: BoolArray, weights: FloatArray) -> dict[str, Any]:
    found = {}
    for name in (*LENGTH_CLASSES, WHOLE):
        members = (pieces.length_class == name) & (weights > 0)
        if not members.any():
            continue
        labels, counted = positive[members], weights[members]
        found[name] = {
            "pieces": int(members.sum()),
            "of_viruses": int(labels.sum()),
            "ece": calibration(told[members], labels, counted)["ece"],
            "ece_of_scores": calibration(pieces.mean[members], labels, counted)["ece"],
        }
    return found
