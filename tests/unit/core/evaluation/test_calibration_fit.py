"""The fit of the probability: it finds the truth that scores were drawn from, and says how good it is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.support.results import of_virus_scores
from virnucpro_core.evaluation.calibration_fit import MIN_UNITS, CalibrationError, fit_calibration
from virnucpro_core.evaluation.labelled_chunks import ChunkCollector, LabelledChunks
from virnucpro_core.evaluation.labels import Label

SLOPE = 0.4


def drawn(records: int, shared: float, seed: int = 0, most: int = 60) -> LabelledChunks:
    """Chunks whose margin m has the log odds SLOPE * m; shared: of its variance, the share that all chunks of a record
    have in common. A third of the records are viruses, and they are shorter."""
    rng = np.random.default_rng(seed)
    is_virus = rng.random(records) < 1 / 3
    counts = np.where(is_virus, rng.integers(1, most // 2, records), rng.integers(1, most, records))
    owner = np.repeat(np.arange(records), counts)
    number = np.concatenate([np.arange(count) for count in counts])
    # For N(+-centre, deviation^2) the log odds of a chunk are 2 * centre / deviation^2 * m.
    deviation = 2.0
    centre = SLOPE * deviation**2 / 2
    noise = math.sqrt(shared) * rng.standard_normal(records)[owner]
    noise += math.sqrt(1 - shared) * rng.standard_normal(len(owner))
    margins = np.where(is_virus[owner], centre, -centre) + deviation * noise
    return LabelledChunks(margins, owner, number, is_virus, np.arange(records), 500)


def test_the_truth_is_found_where_chunks_of_a_record_say_the_same() -> None:
    """More chunks say nothing more then: one slope for all lengths, and no other term."""
    found = fit_calibration(drawn(2000, shared=1.0))
    assert found.margin == pytest.approx(SLOPE, rel=0.1)
    assert found.intercept == pytest.approx(0, abs=0.1)
    assert found.log_chunks == pytest.approx(0, abs=0.05)
    assert found.interaction == pytest.approx(0, abs=0.04)
    assert all(figures["ece"] < 0.04 for figures in found.about["by_length"].values())


def test_the_error_falls_where_many_chunks_say_more_than_one() -> None:
    """The mean of n chunks has a steeper slope than one chunk, and its score alone is too close to one half."""
    found = fit_calibration(drawn(1000, shared=0.3))
    assert found.interaction > 0.1
    by_length = found.about["by_length"]
    assert list(by_length) == ["chunk", "1 kb", "5 kb", "whole"]
    for figures in by_length.values():
        assert figures["ece"] < 0.05
        assert figures["ece"] < figures["ece_of_scores"]
    assert by_length["whole"]["pieces"] <= found.about["records"] == 1000


def test_scores_twice_too_sure_are_taken_back() -> None:
    chunks = drawn(500, shared=1.0)
    sure = LabelledChunks(
        2 * chunks.margins, chunks.owner, chunks.number, chunks.is_virus, chunks.unit, chunks.expected_length
    )
    assert fit_calibration(sure).margin < 0.7 * fit_calibration(chunks).margin


def test_length_alone_says_nothing() -> None:
    """All viruses are single chunks and all others long: that a record has a single chunk must not make it more
    probably viral."""
    rng = np.random.default_rng(4)
    counts = np.where(np.arange(400) % 2 == 0, 1, 40)
    owner = np.repeat(np.arange(400), counts)
    number = np.concatenate([np.arange(count) for count in counts])
    is_virus = counts == 1
    margins = np.where(is_virus[owner], 1.0, -1.0) + rng.standard_normal(len(owner))
    found = fit_calibration(LabelledChunks(margins, owner, number, is_virus, np.arange(400), 500))
    assert found.log_odds([0.0]) == pytest.approx(0, abs=0.25)
    assert list(found.about["by_length"]) == ["chunk"]
    assert found.most_chunks == 1


def test_labels_that_are_told_apart_without_error_keep_the_numbers_finite() -> None:
    owner = np.arange(12)
    is_virus = owner < 6
    margins = np.where(is_virus, 3.0, -3.0)
    found = fit_calibration(LabelledChunks(margins, owner, 0 * owner, is_virus, owner, 500))
    # Platt's target for six records of each label.
    assert found.log_odds([3.0]) == pytest.approx(math.log(7), abs=0.1)


def test_the_same_records_give_the_same_numbers() -> None:
    assert fit_calibration(drawn(200, 0.3), seed=3) == fit_calibration(drawn(200, 0.3), seed=3)


def test_the_error_is_of_groups_that_had_no_part_in_the_fit() -> None:
    """Members of a group have one margin, drawn at random: what is learnt of a group holds for none but itself."""
    rng = np.random.default_rng(1)
    groups = 8
    unit = np.repeat(np.arange(groups), 30)
    is_virus = unit % 2 == 0
    margins = rng.standard_normal(groups)[unit] + 0.3 * np.where(is_virus, 1, -1)
    owner = np.arange(len(unit))
    together = fit_calibration(LabelledChunks(margins, owner, 0 * owner, is_virus, unit, 500))
    alone = fit_calibration(LabelledChunks(margins, owner, 0 * owner, is_virus, owner, 500))
    assert together.about["folds"] == 4
    assert together.about["by_length"]["chunk"]["ece"] > alone.about["by_length"]["chunk"]["ece"]


@pytest.mark.parametrize("viruses", [0, MIN_UNITS - 1])
def test_too_few_records_of_a_label_are_refused(viruses: int) -> None:
    owner = np.arange(20)
    chunks = LabelledChunks(owner.astype(float), owner, 0 * owner, owner < viruses, owner, 500)
    with pytest.raises(
        CalibrationError, match=f"^{viruses} viral records or groups and {20 - viruses} others"
    ):
        fit_calibration(chunks)


def test_a_model_that_ranks_the_wrong_way_round_is_refused() -> None:
    owner = np.arange(40)
    chunks = LabelledChunks(np.where(owner < 20, -2.0, 2.0), owner, 0 * owner, owner < 20, owner, 500)
    with pytest.raises(CalibrationError, match="does not rank their viruses above the others"):
        fit_calibration(chunks)


def test_results_are_collected_without_what_has_no_open_frame() -> None:
    collector = ChunkCollector()
    collector.add(of_virus_scores("a", None, 0.75, 0.5), Label(True, "family"))
    collector.add(of_virus_scores("b", None), Label(False))
    collector.add(of_virus_scores("c", 0.25), Label(False))
    collector.add(of_virus_scores("d", 0.25), Label(True, "family"))
    found = collector.chunks(500)
    assert found.margins == pytest.approx([math.log(3), 0, -math.log(3), -math.log(3)], abs=1e-6)
    assert found.owner.tolist() == [0, 0, 1, 2]
    assert found.number.tolist() == [1, 2, 0, 0]
    assert found.is_virus.tolist() == [True, False, True]
    assert found.unit.tolist() == [0, 1, 0]
