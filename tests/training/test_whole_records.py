"""Whole records by each rule: nothing is fitted on the records that it is measured on."""

from __future__ import annotations

import numpy as np
import pytest

from training.reports.record_scores import RecordScores
from training.reports.whole_records import CONTIG, EVEN, FIXED, VERDICT, best_threshold, whole_records
from virnucpro_core.evaluation.calibration_fit import fit_calibration
from virnucpro_core.evaluation.metrics import sigmoid

RECORDS = 90


def records(seed: int = 1) -> RecordScores:
    """Records of one to six chunks, of three folds and 30 units, of a model that ranks viruses higher."""
    draw = np.random.default_rng(seed)
    virus = np.arange(RECORDS) % 2 == 0
    chunks = draw.integers(1, 7, RECORDS)
    owner = np.repeat(np.arange(RECORDS), chunks)
    number = np.concatenate([np.arange(count) for count in chunks])
    margins = draw.normal(size=len(owner)) + np.where(virus[owner], 1.5, -0.5)
    # The surest frame of each class: no two scores of a chunk add up to less than 1.
    scores = np.stack([sigmoid(-margins + 0.2), sigmoid(margins + 0.2)], axis=1)
    names = np.array([f"r{i}" for i in range(RECORDS)])
    units = np.array([f"u{i % 30}" for i in range(RECORDS)])
    folds = np.arange(RECORDS) % 30 // 10 + 1
    return RecordScores(names, units, units, virus, folds, 500 * chunks, chunks, owner, number, scores)


def test_a_part_has_the_chunks_of_its_records() -> None:
    scores = records()
    chosen = scores.folds == 2
    part = scores.part(chosen)
    assert part.ids.tolist() == scores.ids[chosen].tolist()
    for record, name in enumerate(part.ids.tolist()):
        whole = scores.owner == int(name[1:])
        assert part.scores[part.owner == record].tolist() == scores.scores[whole].tolist()
        assert part.number[part.owner == record].tolist() == scores.number[whole].tolist()


def test_the_probability_of_a_record_is_fitted_on_the_other_folds() -> None:
    scores = records()
    found = whole_records(scores, 500)
    for fold in (1, 2, 3):
        inside = scores.folds == fold
        calibration = fit_calibration(scores.part(~inside).labelled(500))
        for record in np.flatnonzero(inside).tolist():
            margins = scores.margins[scores.owner == record].tolist()
            assert found.log_odds[record] == pytest.approx(calibration.log_odds(margins))
        assert set(found.threshold[inside]) == {
            best_threshold(found.log_odds[~inside], scores.is_virus[~inside])
        }
    everything = fit_calibration(scores.labelled(500))
    assert found.log_odds[0] != pytest.approx(everything.log_odds(scores.margins[scores.owner == 0].tolist()))


def test_each_rule_is_right_by_its_own_measure() -> None:
    scores = records()
    found = whole_records(scores, 500)
    for record in range(RECORDS):
        others, virus = scores.scores[scores.owner == record].max(axis=0)
        is_right = (virus >= others) == scores.is_virus[record]
        assert found.right[VERDICT][record] == is_right
        call = "Viral" if scores.is_virus[record] else "Non-viral"
        assert found.right[CONTIG][record] == (found.call[record] == call)
    assert set(found.call.tolist()) == {"Viral", "Non-viral", "Ambiguous"}
    assert found.right[EVEN].tolist() == ((found.log_odds >= 0) == scores.is_virus).tolist()
    assert found.right[FIXED].tolist() == ((found.log_odds >= found.threshold) == scores.is_virus).tolist()


def test_the_best_threshold_makes_the_smaller_share_largest() -> None:
    draw = np.random.default_rng(3)
    virus = draw.random(400) < 0.3
    values = draw.normal(size=400) + 2 * virus
    best = best_threshold(values, virus)

    def smaller(threshold: float) -> float:
        return min((values[virus] >= threshold).mean(), (values[~virus] < threshold).mean())

    assert smaller(best) == max(smaller(threshold) for threshold in values.tolist())
    assert 0.7 < smaller(best) < 1
