"""What margins are worth: every figure against a slower way to find it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_core.evaluation import metrics
from virnucpro_core.evaluation.metrics import (
    auroc,
    binary_metrics,
    by_kind,
    calibration,
    curves,
    interval,
    mean_margins,
    sigmoid,
    temperature,
)
from virnucpro_core.scoring.verdicts import verdict_margins


def pairwise_auroc(scores: list[float], positive: list[bool], weights: list[float]) -> float:
    """Every pair, one by one."""
    won = all_pairs = 0.0
    for a, of_a, times_a in zip(scores, positive, weights, strict=True):
        for b, of_b, times_b in zip(scores, positive, weights, strict=True):
            if of_a and not of_b:
                all_pairs += times_a * times_b
                won += times_a * times_b * (1.0 if a > b else 0.5 if a == b else 0.0)
    return won / all_pairs if all_pairs else math.nan


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
def test_auroc_is_the_share_of_ordered_pairs_with_ties_and_weights(
    given: list[tuple[int, bool, int]],
) -> None:
    scores, positive, weights = ([one[i] for one in given] for i in range(3))
    arrays = np.array(scores) / 7, np.array(positive)
    expected = pairwise_auroc(scores, positive, weights)
    assert auroc(*arrays, np.array(weights, dtype=float)) == pytest.approx(expected, nan_ok=True)
    unweighted = pairwise_auroc(scores, positive, [1.0] * len(given))
    assert auroc(*arrays) == pytest.approx(unweighted, nan_ok=True)


class TestInterval:
    def test_genomes_are_drawn_not_pieces(self) -> None:
        """However many pieces a genome is cut into, it is one chance to be right or wrong."""
        rng = np.random.default_rng(2)
        scores, positive = rng.normal(size=60), np.arange(60) % 2 == 0
        scores += positive
        whole = interval(scores, positive, np.arange(60))
        pieces = [np.repeat(part, 50) for part in (scores, positive, np.arange(60))]
        assert interval(*pieces) == pytest.approx(whole, abs=1e-9)
        as_if_alone = interval(pieces[0], pieces[1], np.arange(3000))
        assert np.ptp(as_if_alone) < np.ptp(whole) / 4

    def test_it_holds_the_auroc_in_about_19_of_20_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metrics, "ROUNDS", 100)
        truth = 0.5 * (1 + math.erf(0.5))  # of two normal distributions that lie one deviation apart
        held = 0
        for seed in range(60):
            rng = np.random.default_rng(seed)
            positive = np.arange(200) % 2 == 0
            low, high = interval(rng.normal(size=200) + positive, positive, np.arange(200))
            held += low <= truth <= high
        assert 52 <= held <= 59

    def test_each_label_keeps_its_number_of_genomes(self) -> None:
        # Were labels drawn too, some draws would have no virus, and there would be no figure.
        scores, positive = np.array([1.0, 0.0, 0.2, 0.4]), np.array([True, False, False, False])
        assert interval(scores, positive, np.arange(4)) == [1.0, 1.0]


class TestCalibration:
    def test_ece_by_hand(self) -> None:
        # Three margins in the bin of 0.5 (7 of 15), of which one is a virus; one in the last, which is none.
        margins = np.array([0.0, 0.0, 0.0, 50.0])
        found = calibration(margins, np.array([True, False, False, False]))
        assert found["ece"] == pytest.approx((3 * (1 / 2 - 1 / 3) + 1) / 4, abs=1e-4)
        assert sum(found["counts"]) == 4
        assert (found["counts"][7], found["counts"][14]) == (3, 1)
        assert (found["said"][14], found["true"][14]) == (1.0, 0.0)

    def test_probabilities_that_are_right_have_no_error_and_sharper_ones_have(self) -> None:
        rng = np.random.default_rng(1)
        margins = rng.normal(0, 2, 100_000)
        positive = rng.random(100_000) < sigmoid(margins)
        assert calibration(margins, positive)["ece"] < 0.015
        assert calibration(margins * 3, positive)["ece"] > 0.05

    @pytest.mark.parametrize("known", [0.4, 1.0, 2.5])
    def test_the_temperature_is_found(self, known: float) -> None:
        rng = np.random.default_rng(1)
        margins = rng.normal(0, 2, 20_000)
        positive = rng.random(20_000) < sigmoid(margins)
        found = temperature(margins * known, positive)
        assert found == pytest.approx(known, rel=0.04)
        assert calibration(margins * known / found, positive)["ece"] < 0.015

    def test_each_label_counts_one_half(self) -> None:
        rng = np.random.default_rng(1)
        margins = rng.normal(0, 2, 3000)
        positive = rng.random(3000) < sigmoid(margins)
        margins += 1.5  # so that the two labels would have different temperatures
        times = np.where(positive, 1, 10)
        repeated = temperature(np.repeat(margins, times), np.repeat(positive, times))
        assert repeated == temperature(margins, positive)

    @pytest.mark.parametrize("positive", [[True, True], [False, False], []])
    def test_a_temperature_needs_both_labels(self, positive: list[bool]) -> None:
        with pytest.raises(ValueError, match="both labels"):
            temperature(np.zeros(len(positive)), np.array(positive, dtype=bool))

    def test_sigmoid_does_not_overflow(self) -> None:
        assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


@given(st.lists(st.lists(st.floats(-6, 6), min_size=1, max_size=4), max_size=6))
def test_verdict_margins_have_the_sign_of_virnucpro_s_rule(owners: list[list[float]]) -> None:
    margins = np.array([margin for members in owners for margin in members])
    owner = np.array([number for number, members in enumerate(owners) for _ in members], dtype=np.int64)
    found = verdict_margins(margins, owner)
    assert len(found) == len(owners)
    for margin, members in zip(found.tolist(), owners, strict=True):
        virus = max(1 / (1 + math.exp(-m)) for m in members)
        others = max(1 / (1 + math.exp(m)) for m in members)
        assert (margin >= 0) == (virus >= others) or abs(virus - others) < 1e-9
        assert min(members) - 1e-12 <= margin <= max(members) + 1e-12


def test_mean_margins_are_those_of_each_owner() -> None:
    assert mean_margins(np.array([1.0, 2.0, 6.0, -1.0]), np.array([1, 0, 1, 0])).tolist() == [0.5, 3.5]


class TestFigures:
    MARGINS = np.array([2.0, -1.0, 0.0, -3.0, 1.0, -2.0])
    POSITIVE = np.array([True, True, True, False, False, False])
    GENOME = np.array([0, 0, 1, 2, 3, 3])

    def test_shares_and_counts(self) -> None:
        found = binary_metrics(self.MARGINS, self.POSITIVE, self.GENOME)
        assert {name: found[name] for name in ("pieces", "of_viruses", "genomes")} == {
            "pieces": 6, "of_viruses": 3, "genomes": 4,
        }  # fmt: skip
        assert found["accuracy"] == found["sensitivity"] == found["specificity"] == round(2 / 3, 4)
        assert found["auroc"] == round(7 / 9, 4)
        low, high = found["interval95"]
        assert low <= found["auroc"] <= high
        assert found["ece"] == calibration(self.MARGINS, self.POSITIVE)["ece"]

    @pytest.mark.parametrize("members", [[0, 1], [3, 4], []])
    def test_with_one_label_there_are_only_counts(self, members: list[int]) -> None:
        found = binary_metrics(self.MARGINS[members], self.POSITIVE[members], self.GENOME[members])
        assert found.pop("pieces") == len(members)
        assert found.pop("of_viruses") == int(self.POSITIVE[members].sum())
        assert found.pop("genomes") == len(set(self.GENOME[members]))
        assert set(found.values()) == {None}
        assert set(found) == {"auroc", "interval95", "accuracy", "sensitivity", "specificity", "ece"}

    def test_figures_are_counted_by_kind(self) -> None:
        kind = np.array(["flu", "flu", "pox", "plant", "plant", "flu"])
        found = by_kind(self.MARGINS, self.POSITIVE, self.GENOME, kind)
        assert list(found) == ["flu (others)", "plant (others)", "flu (virus)", "pox (virus)"]
        assert found["flu (virus)"] == {
            "chunks": 2, "genomes": 1, "right": 0.5, "auroc": round(5 / 6, 4),
        }  # fmt: skip
        assert found["plant (others)"] == {
            "chunks": 2, "genomes": 2, "right": 0.5, "auroc": round(4 / 6, 4),
        }  # fmt: skip

    def test_curves_end_where_everything_is_called_a_virus(self) -> None:
        found = curves(self.MARGINS, self.POSITIVE)
        assert found["roc"]["hits"] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1, 1, 1], abs=1e-4)
        assert found["roc"]["false_alarms"] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 1], abs=1e-4)
        assert sum(found["histogram"]["virus"]) == sum(found["histogram"]["others"]) == 3
        assert found["calibration"] == calibration(self.MARGINS, self.POSITIVE)
