"""Whole records by each rule that calls them, of the scores of cross-validation.

Nothing that is measured on a record was fitted on it: its scores are of a model that had not seen its family or genus,
and its probability, and the threshold for that, are fitted on the records of the other folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.reports.record_scores import RecordScores, margin_of_scores
from virnucpro_core.evaluation.calibration_fit import fit_calibration
from virnucpro_core.evaluation.metrics import BoolArray, FloatArray, mean_margins
from virnucpro_core.scoring.contig_rule import ContigRule
from virnucpro_core.scoring.decimals import as_printed

VERDICT, CONTIG, EVEN, FIXED = "VirNucPro", "contig rule", "probability at 0.5", "at the fixed threshold"
"""The ways to call a record, in the order of the tables."""


@dataclass(frozen=True, slots=True, eq=False)
class WholeRecords:
    """The records of a file of scores, all arrays [records].

    Attributes:
        is_virus: bool.
        bases: int.
        verdict, mean, log_odds: the margin by VirNucPro's rule, the mean margin of the chunks, and the log odds of the
            calibrated probability; float.
        call: what the contig rule says, str.
        threshold: the log odds from which on the record is called a virus, fixed on the other folds; float.
    """

    is_virus: BoolArray
    bases: npt.NDArray[np.integer]
    verdict: FloatArray
    mean: FloatArray
    log_odds: FloatArray
    call: npt.NDArray[np.str_]
    threshold: FloatArray

    @property
    def right(self) -> Mapping[str, BoolArray]:
        """Whether each way to call a record is right, bool [records]; Ambiguous is wrong."""
        contig = np.where(self.is_virus, self.call == "Viral", self.call == "Non-viral")
        return {
            VERDICT: (self.verdict >= 0) == self.is_virus,
            CONTIG: contig,
            EVEN: (self.log_odds >= 0) == self.is_virus,
            FIXED: (self.log_odds >= self.threshold) == self.is_virus,
        }


def whole_records(scores: RecordScores, expected_length: int) -> WholeRecords:
    """Judge the records; expected_length: bases of a chunk.

    Raises:
        CalibrationError: without one of the folds, no calibration can be fitted.
    """
    first = np.searchsorted(scores.owner, np.arange(len(scores.ids)))
    chunks = np.split(scores.scores, first[1:])
    rule = ContigRule()
    calls = [rule.call([(as_printed(o), as_printed(v)) for o, v in pairs.tolist()]).call for pairs in chunks]
    log_odds = _log_odds(scores, expected_length)
    threshold = np.empty(len(log_odds))
    for fold in np.unique(scores.folds):
        inside = scores.folds == fold
        threshold[inside] = best_threshold(log_odds[~inside], scores.is_virus[~inside])
    return WholeRecords(
        scores.is_virus,
        scores.bases,
        margin_of_scores(*np.maximum.reduceat(scores.scores, first).T),
        mean_margins(scores.margins, scores.owner),
        log_odds,
        np.array(calls),
        threshold,
    )


def best_threshold(values: FloatArray, is_virus: BoolArray) -> float:
    """The value from which on records are called viruses so that the smaller of the shares right, of viruses and of
    others, is the largest; both labels must be there."""
    candidates = np.unique(values)
    found = 1 - np.searchsorted(np.sort(values[is_virus]), candidates) / is_virus.sum()
    spared = np.searchsorted(np.sort(values[~is_virus]), candidates) / (~is_virus).sum()
    return float(candidates[np.argmax(np.minimum(found, spared))])


def _log_odds(scores: RecordScores, expected_length: int) -> FloatArray:
    margins = np.split(scores.margins, np.searchsorted(scores.owner, np.arange(1, len(scores.ids))))
    found = np.empty(len(scores.ids))
    for fold in np.unique(scores.folds):
        calibration = fit_calibration(scores.part(scores.folds != fold).labelled(expected_length))
        for record in np.flatnonzero(scores.folds == fold):
            found[record] = calibration.log_odds(margins[record].tolist())
    return found
