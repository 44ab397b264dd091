"""What margins are worth: AUROC with its interval, calibration, verdicts of frames, chunks and records."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]
BINS = 15
ROUNDS = 1000


def auroc(scores: FloatArray, positive: BoolArray, weights: FloatArray | None = None) -> float:
    """The share of (positive, negative) pairs that the score puts in order, a tie counting one half.

    weights: how often each counts. NaN when there is no positive or no negative.
    """
    _, place = np.unique(scores, return_inverse=True)
    return _auroc(place, positive, np.ones(len(scores)) if weights is None else weights)


def _auroc(place: IntArray, positive: BoolArray, weights: FloatArray) -> float:
    """By the place of each score among the different scores."""
    highs = np.bincount(place, weights * positive)
    lows = np.bincount(place, weights * ~positive)
    if highs.sum() == 0 or lows.sum() == 0:
        return float("nan")
    below = np.cumsum(lows) - lows / 2
    return float((highs * below).sum() / highs.sum() / lows.sum())


def interval(scores: FloatArray, positive: BoolArray, genome: IntArray, seed: int = 1) -> list[float]:
    """The 95% bootstrap interval of the AUROC, resampling genomes within each label; both labels must be present.

    Pieces of one genome are correlated, so genomes are resampled, not pieces.

    scores [pieces]; positive bool [pieces], the same for all pieces of a genome; genome int [pieces].
    """
    _, place = np.unique(scores, return_inverse=True)
    genomes, of_piece = np.unique(genome, return_inverse=True)
    label = np.zeros(len(genomes), dtype=bool)
    label[of_piece] = positive
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(ROUNDS):
        times = np.zeros(len(genomes))
        for kind in (True, False):
            members = np.flatnonzero(label == kind)
            times += np.bincount(rng.choice(members, len(members)), minlength=len(genomes))
        found.append(_auroc(place, positive, times[of_piece]))
    return [round(float(value), 4) for value in np.percentile(found, [2.5, 97.5])]


def calibration(
    margins: FloatArray, positive: BoolArray, weights: FloatArray | None = None
) -> dict[str, Any]:
    """Expected calibration error of sigmoid(margin) over equal bins, and the bins; of at least one margin.

    weights: how much each counts for the error and the shares; the same if left out. `counts` is of margins.
    """
    weights = np.ones(len(margins)) if weights is None else weights
    probability = sigmoid(margins)
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    weight = np.bincount(place, weights, minlength=BINS)
    there = np.where(weight > 0, weight, 1)
    said = np.bincount(place, weights * probability, minlength=BINS) / there
    true = np.bincount(place, weights * positive, minlength=BINS) / there
    return {
        "ece": round(float((weight * np.abs(said - true)).sum() / weights.sum()), 4),
        "said": said.round(4).tolist(),
        "true": true.round(4).tolist(),
        "counts": np.bincount(place, minlength=BINS).tolist(),
    }


def temperature(margins: FloatArray, positive: BoolArray) -> float:
    """What to divide margins by so that sigmoid(margin) is a probability, each label counting one half.

    Raises:
        ValueError: there is no positive or no negative.
    """
    if positive.all() or not positive.any():
        raise ValueError("a temperature needs margins of both labels")
    weights = np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())
    candidates = np.exp(np.linspace(np.log(0.2), np.log(5), 400))
    signed = np.where(positive, 1, -1) * margins
    losses = [float((weights * np.logaddexp(0, -signed / t)).sum()) for t in candidates]
    return round(float(candidates[int(np.argmin(losses))]), 4)


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)), without overflow."""
    half: FloatArray = 0.5 * (1 + np.tanh(0.5 * x))
    return half


def mean_margins(margins: FloatArray, owner: IntArray) -> FloatArray:
    """Mean margin of each owner; owner int [members], without gaps."""
    return np.bincount(owner, margins) / np.bincount(owner)


def binary_metrics(margins: FloatArray, positive: BoolArray, genome: IntArray) -> dict[str, Any]:
    """AUROC with its interval, accuracy and calibration of pieces (chunks, 5 kb, records).

    Where one label is missing, the metrics are None (JSON has no NaN) and only the counts are there.

    margins [pieces], a virus from 0 on; positive bool [pieces]; genome int [pieces], see `interval`.
    """
    counts = {
        "pieces": len(margins),
        "of_viruses": int(positive.sum()),
        "genomes": len(np.unique(genome)),
    }
    if positive.all() or not positive.any():
        measured = ("auroc", "interval95", "accuracy", "sensitivity", "specificity", "ece")
        return counts | dict.fromkeys(measured)
    right = (margins >= 0) == positive
    return counts | {
        "auroc": round(auroc(margins, positive), 4),
        "interval95": interval(margins, positive, genome),
        "accuracy": round(float(right.mean()), 4),
        "sensitivity": round(float(right[positive].mean()), 4),
        "specificity": round(float(right[~positive].mean()), 4),
        "ece": calibration(margins, positive)["ece"],
    }


def by_kind(
    margins: FloatArray, positive: BoolArray, genome: IntArray, kind: npt.NDArray[np.str_]
) -> dict[str, Any]:
    """For each kind of piece (a family, a group, a novelty): how many, the share right, and the AUROC of its
    viruses against all others, and of its others against all viruses."""
    right = (margins >= 0) == positive
    found: dict[str, Any] = {}
    for label, name in sorted({(bool(p), str(k)) for p, k in zip(positive, kind, strict=True)}):
        members = (kind == name) & (positive == label)
        against = members | (positive != label)
        found[f"{name} ({'virus' if label else 'others'})"] = {
            "chunks": int(members.sum()),
            "genomes": len(np.unique(genome[members])),
            "right": round(float(right[members].mean()), 4),
            "auroc": round(auroc(margins[against], positive[against]), 4),
        }
    return found


def curves(margins: FloatArray, positive: BoolArray) -> dict[str, Any]:
    """What pictures are drawn from: ROC points, calibration bins, a histogram of scores."""
    order = np.argsort(-margins)
    hits = np.cumsum(positive[order]) / positive.sum()
    alarms = np.cumsum(~positive[order]) / (~positive).sum()
    chosen = np.unique(np.linspace(0, len(order) - 1, 200).astype(int))
    edges = np.linspace(0, 1, 41)
    return {
        "roc": {"false_alarms": alarms[chosen].round(4).tolist(), "hits": hits[chosen].round(4).tolist()},
        "calibration": calibration(margins, positive),
        "histogram": {
            "edges": edges.round(4).tolist(),
            "virus": np.histogram(sigmoid(margins[positive]), edges)[0].tolist(),
            "others": np.histogram(sigmoid(margins[~positive]), edges)[0].tolist(),
        },
    }
