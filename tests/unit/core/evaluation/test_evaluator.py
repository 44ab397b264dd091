"""The evaluation report, against metrics counted one by one; and what it says where one cannot be computed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.support.evaluation_cases import Case, frame, random_cases, record, report_on
from virnucpro_core.evaluation.evaluator import NO_GROUP, Evaluation
from virnucpro_core.evaluation.labels import Label
from virnucpro_core.scoring.margins import margin_of
from virnucpro_core.scoring.results import FrameResult, verdict_over


def pairs_in_order(high: list[float], low: list[float]) -> float:
    """The AUROC by its definition."""
    worth = [1.0 if a > b else 0.5 if a == b else 0.0 for a in high for b in low]
    return sum(worth) / len(worth)


def own_margin(frames: tuple[FrameResult, ...]) -> float:
    """By the other of the two formulas: from the margins of the frames."""
    margins = [math.log(one.virus / one.others) for one in frames]
    return (max(margins) + min(margins)) / 2


def chunk_margins(cases: list[Case], virus: bool) -> list[float]:
    return [
        own_margin(chunk.frames)
        for result, label in cases
        for chunk in result.chunks
        if chunk.frames and label.is_virus == virus
    ]


def means(cases: list[Case], virus: bool) -> list[float]:
    return [
        float(np.mean([own_margin(chunk.frames) for chunk in result.chunks if chunk.frames]))
        for result, label in cases
        if label.is_virus == virus and result.verdict != "no_open_frame"
    ]


def test_the_figures_of_chunks_and_records_are_those_counted_out():
    cases = random_cases(80)
    found = report_on(*cases)
    high, low = chunk_margins(cases, True), chunk_margins(cases, False)
    chunks = found["chunks"]
    assert (chunks["count"], chunks["of_viruses"]) == (len(high) + len(low), len(high))
    assert chunks["auroc"] == pytest.approx(pairs_in_order(high, low), abs=1e-4)
    assert chunks["interval95"][0] < chunks["auroc"] < chunks["interval95"][1]
    right = [m >= 0 for m in high] + [m < 0 for m in low]
    assert chunks["accuracy"] == pytest.approx(np.mean(right), abs=1e-4)
    assert chunks["sensitivity"] == pytest.approx(np.mean([m >= 0 for m in high]), abs=1e-4)
    assert chunks["specificity"] == pytest.approx(np.mean([m < 0 for m in low]), abs=1e-4)

    high, low = means(cases, True), means(cases, False)
    mean = found["records_by_mean_margin"]
    assert mean["auroc"] == pytest.approx(pairs_in_order(high, low), abs=1e-4)
    assert mean["sensitivity"] == pytest.approx(np.mean([m >= 0 for m in high]), abs=1e-4)
    rule = found["records_by_verdict"]
    verdicts = [result.verdict == "virus" for result, label in cases if label.is_virus and result.virus_score]
    assert rule["sensitivity"] == pytest.approx(np.mean(verdicts), abs=1e-4)
    assert rule["records"] == mean["count"] == len(high) + len(low)


def test_what_has_no_open_frame_is_counted_and_in_no_figure():
    found = report_on(
        (record("v", 1200, [0.9], []), Label(True)),
        (record("o", 700, [], [0.2, 0.1]), Label(False)),
        (record("none", 400, []), Label(False)),
    )
    assert found["counts"] == {
        "records": 3,
        "viruses": 1,
        "others": 2,
        "bases": 2300,
        "records_without_open_frame": 1,
        "chunks": 5,
        "chunks_without_open_frame": 3,
        "share_without_open_frame": 0.6,
        "frames": 3,
    }
    assert found["chunks"]["count"] == found["records_by_verdict"]["count"] == 2
    assert found["by_group"] is None


def test_the_interval_draws_records_not_chunks():
    """A hundred equal chunks of a record are no more evidence than one."""
    once = [
        (record(f"{virus}{n}", 600, [0.1 + 0.08 * n + 0.1 * virus]), Label(bool(virus)))
        for virus in (0, 1)
        for n in range(10)
    ]
    often = [
        (record(r.record_id, 600, *[[r.virus_score]] * 100), label)
        for r, label in once
        if r.virus_score is not None
    ]
    wide = report_on(*often)["chunks"]
    assert wide["count"] == 2000
    assert wide["records"] == 20
    assert wide["interval95"] == report_on(*once)["chunks"]["interval95"]
    assert wide["interval95"][1] - wide["interval95"][0] > 0.2


def test_records_by_length():
    found = report_on(
        (record("a", 499, [0.9]), Label(True)),
        (record("b", 500, [0.8]), Label(False)),
        (record("c", 999, [0.9], [0.6]), Label(True)),
        (record("d", 20_000, [0.3]), Label(False)),
        (record("none", 3_000, []), Label(False)),
    )
    bins = {bin_["bases"]: bin_["records_by_mean_margin"] for bin_ in found["by_length"]}
    assert list(bins) == ["under 500", "500 to 999", "20,000 and more"]
    assert [bin_["count"] for bin_ in bins.values()] == [1, 2, 1]
    assert [bin_["auroc"] for bin_ in bins.values()] == [None, 0.0, None]
    assert [bin_["sensitivity"] for bin_ in bins.values()] == [1.0, 1.0, None]
    assert [bin_["specificity"] for bin_ in bins.values()] == [None, 0.0, 1.0]


def test_the_mean_of_the_chunks_and_the_verdict_are_told_apart():
    """One sure chunk makes VirNucPro's verdict; the mean hears them all."""
    found = report_on(
        (record("o", 2000, [0.97], [0.2], [0.2], [0.1], [0.1]), Label(False)),
        (record("v", 600, [0.9]), Label(True)),
    )
    assert found["records_by_verdict"]["specificity"] == 0.0
    assert found["records_by_mean_margin"]["specificity"] == 1.0


def test_groups_of_chunks():
    found = report_on(
        (record("a", 900, [0.9], [0.4]), Label(True, "Picornaviridae")),
        (record("b", 900, [0.7]), Label(True)),
        (record("c", 900, [0.6], [0.1]), Label(False, "bacteria")),
    )["by_group"]
    assert found["Picornaviridae (virus)"] == {"chunks": 2, "records": 1, "right": 0.5, "auroc": 0.75}
    assert found[f"{NO_GROUP} (virus)"] == {"chunks": 1, "records": 1, "right": 1.0, "auroc": 1.0}
    assert found["bacteria (others)"]["auroc"] == pytest.approx(
        pairs_in_order([0.9, 0.4, 0.7], [0.6, 0.1]), abs=1e-4
    )


@pytest.mark.parametrize(("virus", "there"), [(True, "sensitivity"), (False, "specificity")])
def test_one_class_alone_has_a_share_right_and_no_auroc(virus, there):
    found = report_on(
        *((record(f"r{n}", 700, [score]), Label(virus, "group")) for n, score in enumerate((0.9, 0.8, 0.2)))
    )
    right = round(2 / 3 if virus else 1 / 3, 4)
    missing = "specificity" if virus else "sensitivity"
    for figures in (found["chunks"], found["records_by_mean_margin"], found["records_by_verdict"]):
        assert figures["accuracy"] == figures[there] == right
        assert figures["auroc"] is figures["interval95"] is figures[missing] is None
    assert found["curves"]["roc"] is None
    assert sum(found["curves"]["calibration"]["counts"]) == 3
    assert [group["auroc"] for group in found["by_group"].values()] == [None]
    (warning,) = found["warnings"]
    assert "no AUROC" in warning


def test_both_classes_have_no_warning_and_a_curve():
    found = report_on((record("v", 700, [0.9]), Label(True)), (record("o", 700, [0.1]), Label(False)))
    assert found["warnings"] == []
    assert found["curves"]["roc"]["hits"][-1] == found["curves"]["roc"]["false_alarms"][-1] == 1.0
    assert sum(found["curves"]["histogram"]["virus"]) == 1


def test_without_any_open_frame_there_is_no_report():
    evaluation = Evaluation()
    evaluation.add(record("r", 100, [], []), Label(True))
    assert evaluation.frames == 0
    with pytest.raises(ValueError, match="open frame"):
        evaluation.report()


def test_a_margin_has_the_sign_of_the_verdict_where_float32_has_no_digits_left():
    just_below = float(np.nextafter(np.float32(1), np.float32(0)))
    scores = (0.0, 1e-45, 1e-12, 0.25, 0.5, just_below, 1.0)
    pool = [frame(virus, others) for virus in scores for others in scores]
    for first in pool:
        for second in pool:
            frames = (first, second)
            assert (margin_of(frames) >= 0) == (verdict_over(frames) == "virus"), frames


def test_the_margin_of_one_frame_is_the_logarithm_of_its_ratio():
    assert margin_of([frame(0.75)]) == pytest.approx(math.log(3), rel=1e-6)
    assert margin_of([frame(0.001)]) == pytest.approx(math.log(0.001 / 0.999), rel=1e-6)
    assert math.isfinite(margin_of([frame(1.0, 0.0)]))
