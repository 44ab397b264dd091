"""The contig rule: against a second implementation of its description, and where its numbers draw a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.contig_rule import contigs_of
from tests.support.results import Frames, of_virus_scores, result, scored, text_of
from virnucpro_core.scoring.contig_call import contig_call
from virnucpro_core.scoring.contig_rule import ContigRule, weighted_delta
from virnucpro_core.scoring.report import Details, report_of, reports
from virnucpro_core.scoring.results import RecordResult

LINES = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.35, 0.5, 0.65, 0.7, 0.8, 0.9, 1.0])
"""Scores that lie on a threshold, or give a delta that does."""
FRAMES = st.tuples(st.just("F1"), LINES | st.floats(0, 1, width=32), LINES | st.floats(0, 1, width=32))
RECORDS = st.lists(st.lists(st.lists(FRAMES, max_size=2), min_size=1, max_size=9), max_size=4)
NUMBERS = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.7, 0.8, 1.0])


def written(folder: Path, results: list[RecordResult]) -> Path:
    """The file of highest scores."""
    with reports([report_of("virnucpro", folder, Details())]) as write:
        for found in results:
            write(scored(found))
    return folder / "prediction_results_highestscore.csv"


def rows_of(results: list[RecordResult], rule: ContigRule) -> list[list[str]]:
    return [line.split("\t") for line in text_of("contigs", results, Details(rule)).splitlines()[1:]]


@given(
    records=RECORDS,
    rule=st.just(ContigRule())
    | st.builds(ContigRule, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.integers(1, 9)),
)
def test_the_file_of_highest_scores_gives_another_program_the_same_calls(
    records: list[list[Frames]], rule: ContigRule, tmp_path_factory
) -> None:
    ids = ["NODE_2", "NODE_10", "NODE_10", "a b"]
    results = [result(name, *chunks) for name, chunks in zip(ids, records, strict=False)]
    path = written(tmp_path_factory.mktemp("run"), results)
    options = {name: getattr(rule, name) for name in ContigRule.__dataclass_fields__}
    assert rows_of(results, rule) == contigs_of(path, **options)


def call(*virus_scores: float | None, **numbers: float) -> tuple[str, str]:
    found = contig_call(of_virus_scores("r", *virus_scores), replace(ContigRule(), **numbers))
    assert found is not None
    return found.call, found.tier


def test_tiers() -> None:
    assert call(*[0.95] * 5) == ("Viral", "high_confidence")
    assert call(*[0.79] * 5) == ("Viral", "low_confidence")  # no chunk is confident
    assert call(*[0.7] * 10, 0.81) == ("Viral", "low_confidence")  # 9% are
    assert call(*[0.7] * 9, 0.81) == ("Viral", "moderate_confidence")  # 10% are
    assert call(*[0.05] * 5) == ("Non-viral", "high_confidence")
    assert call(*[0.3] * 9, 0.1) == ("Non-viral", "moderate_confidence")
    assert call(*[0.5] * 9) == ("Ambiguous", "review")


@pytest.mark.parametrize(("scores", "tier"), [([0.95] * 4, "low_confidence"), ([0.79] * 4, "review")])
def test_a_record_of_few_chunks_is_a_tier_lower(scores, tier) -> None:
    assert call(*scores) == ("Viral", tier)
    assert call(*scores, min_chunks=4)[1] != tier


def test_chunks_without_an_open_frame_do_not_count() -> None:
    assert call(*[0.95] * 4, None, None) == ("Viral", "low_confidence")
    assert contig_call(of_virus_scores("r", None, None), ContigRule()) is None


def test_a_chunk_counts_by_its_two_highest_scores() -> None:
    """They may come from two frames: high both, such a chunk is ambiguous."""
    both = [("F1", 0.9, 0.1), ("R1", 0.1, 0.9)]
    found = contig_call(result("r", both, [("F1", 0.1, 0.9)]), ContigRule())
    assert found is not None
    assert (found.n_chunks, found.n_ambiguous, found.n_confident_viral) == (2, 1, 1)
    assert (found.viral_proportion, found.nonviral_proportion) == (1.0, 0.0)
    only = contig_call(result("r", both), ContigRule())
    assert only is not None
    assert (only.call, only.weighted_delta, only.viral_proportion) == ("Ambiguous", 0.0, 0.0)


def test_a_score_on_a_threshold_is_judged_as_it_is_printed() -> None:
    """float32(0.8) is more than 0.8; the file says 0.8, and a program that reads it calls the chunk not confident."""
    found = contig_call(of_virus_scores("r", *[0.8] * 5), ContigRule())
    assert found is not None
    assert found.n_confident_viral == 0


def test_the_weighted_delta_weighs_by_the_root_and_is_their_mean_where_all_are_0() -> None:
    assert weighted_delta([(0.0, 0.64), (0.25, 0.0)]) == pytest.approx((0.64 * 0.8 - 0.25 * 0.5) / 1.3)
    assert weighted_delta([(0.5, 0.5)]) == 0.0
