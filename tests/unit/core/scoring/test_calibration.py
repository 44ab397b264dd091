"""The probability of a record, by hand; what it needs; and which records are written by it."""

from __future__ import annotations

import io
import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.results import left_out, of_virus_scores, scored, text_of
from virnucpro_core.scoring.calibration import MOST_MARGIN, Calibration
from virnucpro_core.scoring.report import Details, Report, report_of, reports
from virnucpro_core.scoring.selection import Selection, fdr_threshold
from virnucpro_core.scoring.sequence_files import Rejected

PLAIN = Calibration(0.0, 1.0, 0.0, 0.0, most_chunks=1000)
"""The score of one chunk is its probability."""


def odds(probability: float | None) -> float:
    assert probability is not None
    return probability / (1 - probability)


def test_the_formula_by_hand() -> None:
    found = Calibration(0.5, 0.8, -0.1, 0.3, most_chunks=10)
    result = of_virus_scores("r", 0.75, None, 0.9)
    mean = (math.log(3) + math.log(9)) / 2
    logit = 0.5 - 0.1 * math.log(2) + (0.8 + 0.3 * math.log(2)) * mean
    assert odds(found.at_prior()(result)) == pytest.approx(math.exp(logit), rel=1e-5)


def test_more_chunks_than_were_seen_count_as_those_seen() -> None:
    found = Calibration(0.0, 1.0, 0.0, 0.5, most_chunks=4).at_prior()
    assert found(of_virus_scores("r", *[0.75] * 4)) == found(of_virus_scores("r", *[0.75] * 40))


def test_a_margin_counts_as_ten_at_most() -> None:
    assert PLAIN.log_odds([1e9]) == MOST_MARGIN
    assert PLAIN.log_odds([-1e9, MOST_MARGIN]) == 0


@given(st.floats(0.01, 0.99), st.floats(0.001, 0.999))
def test_a_prior_moves_the_odds_by_bayes_rule(score: float, prior: float) -> None:
    result = of_virus_scores("r", score)
    even, moved = odds(PLAIN.at_prior()(result)), odds(PLAIN.at_prior(prior)(result))
    assert moved == pytest.approx(even * prior / (1 - prior), rel=1e-6)


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, math.nan])
def test_a_prior_that_is_certain_is_refused(prior: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        PLAIN.at_prior(prior)


@pytest.mark.parametrize(
    "numbers", [(0, 0, 0, 0, 1), (0, -1, 0, 0, 1), (0, 1, 0, -1, 20), (math.nan, 1, 0, 0, 1), (0, 1, 0, 0, 0)]
)
def test_numbers_by_which_a_higher_score_is_less_probable_are_refused(numbers: tuple) -> None:
    with pytest.raises(ValueError, match=r"lower probability|not finite|most_chunks"):
        Calibration(*numbers)


def test_a_record_without_an_open_frame_has_no_probability() -> None:
    details = Details(probability=PLAIN.at_prior())
    header, with_score, without = text_of(
        "tsv", [of_virus_scores("a", 0.75), of_virus_scores("b", None)], details
    ).splitlines()
    assert header.split("\t")[-1] == "probability"
    assert with_score.split("\t")[-1] == "0.75"
    assert without.split("\t")[-1] == ""
    assert '"probability": null' in text_of("jsonl", [of_virus_scores("b", None)], details)


def test_without_a_calibration_there_is_no_column() -> None:
    for form in ("tsv", "jsonl"):
        assert "probability" not in text_of(form, [of_virus_scores("a", 0.75)])


@given(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.8, 0.9, 0.99, 1.0]), max_size=12), st.floats(0, 1))
def test_the_most_records_within_a_false_discovery_rate(probabilities: list[float], max_fdr: float) -> None:
    """Against every threshold tried one by one."""
    allowed = [
        threshold
        for threshold in probabilities
        if (taken := [p for p in probabilities if p >= threshold])
        and sum(1 - p for p in taken) / len(taken) <= max_fdr - 1e-9
    ]
    found = fdr_threshold(array("d", probabilities), max_fdr)
    if allowed:
        assert found is not None
        assert found <= min(allowed)
    if found is not None:
        taken = [p for p in probabilities if p >= found]
        assert sum(1 - p for p in taken) / len(taken) <= max_fdr + 1e-9


def ids_within(selection: Selection) -> tuple[list[str], list[str]]:
    """The ids in a table of the selection, and those in the file of rejected records."""
    table, rejected = io.StringIO(), io.StringIO()
    wanted = [
        report_of("tsv", table, Details()),
        Report(rejected, Rejected, is_of_all=True),
    ]
    with reports(wanted, selection) as write:
        for outcome in (
            scored(of_virus_scores("low", 0.25)),
            left_out("bad"),
            scored(of_virus_scores("sure", 0.99)),
            scored(of_virus_scores("empty", None)),
            scored(of_virus_scores("likely", 0.75)),
        ):
            write(outcome)
    first, second = (
        [line.split("\t")[0] for line in text.getvalue().splitlines()[1:]] for text in (table, rejected)
    )
    return first, second


def test_a_least_probability() -> None:
    selection = Selection(PLAIN.at_prior(), least=0.7)
    assert ids_within(selection) == (["sure", "likely"], ["bad", "empty"])
    assert selection.count == 2
    assert selection.expected_fdr == pytest.approx((0.01 + 0.25) / 2, abs=1e-6)
    assert selection.threshold == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("max_fdr", "ids"),
    [(0.0, []), (0.02, ["sure"]), (0.14, ["sure", "likely"]), (0.4, ["low", "sure", "likely"])],
)
def test_a_false_discovery_rate_keeps_the_order_of_the_input(max_fdr: float, ids: list[str]) -> None:
    selection = Selection(PLAIN.at_prior(), max_fdr=max_fdr)
    assert ids_within(selection) == (ids, ["bad", "empty"])
    assert selection.count == len(ids)


def test_both_limits_hold() -> None:
    assert ids_within(Selection(PLAIN.at_prior(), least=0.5, max_fdr=1.0))[0] == ["sure", "likely"]
