"""The soak's figures: what its samples say, without a service."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.soak import Sample, memory_and_threads, missing, slope, summary

BUDGETS = {"inflight_records": 2000, "inflight_bytes": 64_000_000}


def sample(seconds: float, **figures: float) -> Sample:
    at_rest = Sample(
        seconds=seconds,
        rss_mib=100.0,
        anonymous_mib=60.0,
        fds=20,
        threads=12,
        series=180,
        inflight_records=500,
        inflight_bytes=300_000,
        queued_tokens=10_000,
        answered=int(seconds * 1000),
        busy_s=seconds * 0.9,
        held_s=seconds / 2,
        paused_s=seconds / 4,
        lag=50_000,
    )
    return replace(at_rest, **figures)


def test_the_slope_of_a_line_is_its_own_and_certain():
    line = slope([(seconds, 100 + seconds / 3600 * 6) for seconds in (0, 5, 10, 300)])
    assert line.per_hour == pytest.approx(6)
    assert line.standard_error == pytest.approx(0, abs=1e-6)


def test_the_standard_error_is_that_of_least_squares():
    # x 0 1 2 3, y 0 1 1 2: slope 0.6, residuals -0.1 0.3 -0.3 0.1, so sqrt(0.2 / 2 / 5) = sqrt(0.02)
    line = slope([(0, 0), (3600, 1), (7200, 1), (10800, 2)])
    assert line.per_hour == pytest.approx(0.6)
    assert line.standard_error == pytest.approx(math.sqrt(0.02))


def test_memory_that_only_swings_has_no_slope_beyond_its_error():
    points = [(5.0 * n, 100 + (-1) ** n) for n in range(100)]
    line = slope(points)
    assert abs(line.per_hour) < line.standard_error


@pytest.mark.parametrize("moments", [(), (1,), (1, 2), (1, 1, 2)])
def test_a_slope_without_an_error_is_refused(moments):
    with pytest.raises(ValueError, match="three"):
        slope([(moment, 1) for moment in moments])


def test_memory_and_threads_are_read_from_proc():
    status = "Name:\tpython\nVmHWM:\t  99999 kB\nVmRSS:\t   92160 kB\nRssAnon:\t   51200 kB\nThreads:\t14\n"
    assert memory_and_threads(status) == (90.0, 50.0, 14)


def test_every_partition_is_filled_up_to_its_share_and_never_below_nothing():
    assert missing([0, 0, 0, 0], 1000) == [700, 100, 100, 100]
    assert missing([700, 99, 100, 150], 1000) == [0, 1, 0, 0]


def test_the_warming_up_counts_for_the_peaks_alone():
    samples = [
        sample(0, rss_mib=10.0, fds=900, inflight_records=1999),
        *(sample(300 + 60 * n, rss_mib=100.0 + n) for n in range(6)),
    ]
    figures = summary(samples, BUDGETS, warm_up_s=300)
    assert figures["samples_counted"] == 6
    assert figures["growth_an_hour"]["rss_mib"]["per_hour"] == pytest.approx(60)
    assert figures["growth_an_hour"]["anonymous_mib"]["per_hour"] == pytest.approx(0)
    assert figures["rss_mib"] == [100.0, 105.0]
    assert figures["fds"] == [20, 20]
    assert figures["peaks"]["inflight_records"] == {"peak": 1999, "budget": 2000}
    assert figures["peaks"]["inflight_bytes"] == {"peak": 300_000, "budget": 64_000_000}


def test_rates_and_shares_are_of_the_time_after_the_warming_up():
    samples = [sample(0), sample(300), sample(400), sample(500, answered=900_000, held_s=200, paused_s=175)]
    figures = summary(samples, BUDGETS, warm_up_s=300)
    assert figures["records_per_s"] == pytest.approx(3000)  # 300,000 to 900,000 in 200 s
    assert figures["busy_share"] == pytest.approx(0.9)
    assert figures["held_share"] == pytest.approx(0.25)  # 150 to 200
    assert figures["paused_share"] == pytest.approx(0.5)  # 75 to 175


def test_too_short_a_soak_says_so():
    with pytest.raises(ValueError, match="three samples"):
        summary([sample(0), sample(301), sample(306)], BUDGETS, warm_up_s=300)
