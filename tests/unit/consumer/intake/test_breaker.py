"""The circuit breaker: opens when most of the latest records failed for a reason of ours, tries a few, closes again."""

from __future__ import annotations

from itertools import count

import pytest
from structlog.testing import capture_logs

from consumer.intake.breaker import TELLING, Breaker
from schemas import Reason
from tests.support.factories import FakeClock, partition, source

BAD = Reason.UNKNOWN_SCHEMA
JUNK = Reason.MALFORMED
CONTENT = sorted(set(Reason) - TELLING.keys())
OFFSETS = count()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock) -> Breaker:
    return Breaker(window=20, share=0.5, pause_s=60.0, clock=clock)


def finish(breaker: Breaker, *reasons: Reason | None, number: int = 0) -> None:
    """Records that were read and are finished, one after the other."""
    for reason in reasons:
        place = source(next(OFFSETS), number)
        breaker.admitted(place)
        breaker.outcome(place, reason)


def test_it_never_opens_before_the_window_is_full(breaker):
    finish(breaker, *[BAD] * 19)
    assert breaker.room() is None
    finish(breaker, BAD)
    assert breaker.is_open
    assert breaker.room() == 0


def test_exactly_the_share_does_not_open_it_and_one_more_does(breaker):
    finish(breaker, *[BAD] * 10, *[None] * 10)
    assert not breaker.is_open
    finish(breaker, BAD)  # a refused one goes out at the other end of the window
    assert not breaker.is_open
    finish(breaker, *[None] * 9, *[BAD] * 11)
    assert breaker.is_open


def test_old_outcomes_are_forgotten(breaker):
    finish(breaker, *[BAD] * 10, *[None] * 20, *[BAD] * 10)
    assert not breaker.is_open


def test_a_trial_that_passes_closes_it(breaker, clock):
    finish(breaker, *[BAD] * 20)
    clock.advance(59)
    assert breaker.room() == 0
    clock.advance(1)
    assert breaker.room() == 2, "a tenth of the window"
    first, second = source(1000), source(1001)
    breaker.admitted(first)
    assert breaker.room() == 1
    breaker.admitted(second)
    assert breaker.room() == 0
    breaker.outcome(second, None)
    assert breaker.is_open
    breaker.outcome(first, None)
    assert not breaker.is_open
    assert breaker.room() is None


def test_a_trial_that_fails_begins_another_pause(breaker, clock):
    finish(breaker, *[BAD] * 20)
    clock.advance(60)
    assert breaker.room() == 2
    finish(breaker, BAD, BAD)
    assert breaker.room() == 0
    clock.advance(59)
    assert breaker.room() == 0
    clock.advance(1)
    assert breaker.room() == 2


def test_records_of_a_trial_that_were_revoked_are_replaced(breaker, clock):
    finish(breaker, *[BAD] * 20)
    clock.advance(60)
    assert breaker.room() == 2
    breaker.admitted(source(1000, number=0))
    breaker.admitted(source(1001, number=1))
    breaker.forget([partition(0)])
    assert breaker.room() == 1
    finish(breaker, None)
    breaker.outcome(source(1000, number=0), BAD)
    assert breaker.is_open, "the result of an earlier assignment is none"
    breaker.outcome(source(1001, number=1), None)
    assert not breaker.is_open


def test_a_slow_stream_fills_a_trial_over_several_pauses(breaker, clock):
    finish(breaker, *[BAD] * 20)
    clock.advance(60)
    assert breaker.room() == 2
    finish(breaker, None)
    clock.advance(60)
    assert breaker.room() == 2, "more may be read"
    finish(breaker, None)
    assert not breaker.is_open


@pytest.mark.parametrize("reason", [None, BAD])
@pytest.mark.parametrize("during_the_trial", [False, True])
def test_what_was_in_flight_when_it_opened_neither_closes_nor_fails_a_trial(
    breaker, clock, reason, during_the_trial
):
    late = [source(1000 + n) for n in range(10)]
    for place in late:
        breaker.admitted(place)
    finish(breaker, *[BAD] * 20)
    assert breaker.is_open
    if during_the_trial:
        clock.advance(60)
        assert breaker.room() == 2
    for place in late:
        breaker.outcome(place, reason)
    assert breaker.is_open
    clock.advance(60)
    assert breaker.room() == 2
    finish(breaker, None, None)
    assert not breaker.is_open


@pytest.mark.parametrize("reason", CONTENT)
def test_a_flood_of_refused_content_never_opens_it(breaker, reason):
    finish(breaker, *[reason] * 1000)
    assert not breaker.is_open
    finish(breaker, *[BAD] * 10, *[reason] * 1000, *[None] * 10)
    assert not breaker.is_open, "content is not counted as refused"


def test_refused_content_does_not_hide_a_model_that_fails(breaker):
    for _ in range(20):
        finish(breaker, *[JUNK] * 9, Reason.INFERENCE_FAILED)
    assert breaker.is_open, "content is not counted as passed either"


def test_refused_content_does_not_use_up_a_trial(breaker, clock):
    finish(breaker, *[BAD] * 20)
    clock.advance(60)
    assert breaker.room() == 2
    finish(breaker, *[JUNK] * 100)
    assert breaker.room() == 2
    finish(breaker, None, None)
    assert not breaker.is_open


def test_one_bad_publisher_in_one_partition_stops_no_other(breaker):
    finish(breaker, None, number=1)
    finish(breaker, *[BAD] * 1000, number=0)
    assert not breaker.is_open
    for _ in range(100):
        finish(breaker, *[BAD] * 9, number=0)
        finish(breaker, None, number=2)
    assert not breaker.is_open


def test_single_failures_in_quiet_partitions_do_not_outweigh_a_busy_one(breaker):
    finish(breaker, *[None] * 17, number=0)
    for number in (1, 2, 3):
        finish(breaker, BAD, number=number)
    assert not breaker.is_open


def test_a_failure_in_every_partition_opens_it_and_so_does_one_in_the_only_partition_with_records(
    breaker, clock
):
    for number in range(4):
        finish(breaker, None, number=number)
    clock.advance(61)
    finish(breaker, *[BAD] * 20, number=0)
    assert breaker.is_open, "what passed before a pause ago says nothing about today"
    other = Breaker(window=20, share=0.5, pause_s=60.0, clock=clock)
    for number in range(4):
        finish(other, None, *[BAD] * 5, number=number)
    assert other.is_open


def test_a_partition_that_went_away_no_longer_counts_as_sound(breaker):
    finish(breaker, None, number=1)
    breaker.forget([partition(1)])
    finish(breaker, *[BAD] * 20, number=0)
    assert breaker.is_open


def test_a_trial_reads_of_each_partition_its_share(clock):
    breaker = Breaker(window=120, share=0.5, pause_s=60.0, clock=clock)
    finish(breaker, *[BAD] * 120)
    clock.advance(60)
    assert breaker.room() == 12
    for _ in range(3):
        assert not breaker.has_enough_of(partition(0), assigned=4)
        finish(breaker, BAD, number=0)
    assert breaker.has_enough_of(partition(0), assigned=4), "a bad publisher with a long backlog"
    assert not breaker.has_enough_of(partition(1), assigned=4)
    finish(breaker, *[None] * 9, number=1)
    assert not breaker.is_open
    assert not breaker.has_enough_of(partition(0), assigned=4)


def test_partitions_that_passed_in_a_trial_count_as_sound_behind_it(breaker, clock):
    finish(breaker, *[BAD] * 20)
    clock.advance(60)
    assert breaker.room() == 2
    finish(breaker, None, number=1)
    finish(breaker, None, number=2)
    assert not breaker.is_open
    finish(breaker, *[BAD] * 100, number=0)
    assert not breaker.is_open


def test_a_partition_gives_more_to_a_trial_when_the_others_had_time_to(clock):
    breaker = Breaker(window=120, share=0.5, pause_s=60.0, clock=clock)
    finish(breaker, *[BAD] * 120)
    clock.advance(60)
    for part in range(4):
        room = breaker.room()
        assert room == 12 - 3 * part
        finish(breaker, *[None] * 3)
        assert breaker.has_enough_of(partition(0), assigned=4) == (part < 3)
        clock.advance(0.9)
        breaker.room()
        assert breaker.has_enough_of(partition(0), assigned=4) == (part < 3)
        clock.advance(0.1)
    assert not breaker.is_open


def test_the_shares_of_a_trial_are_not_used_up_by_what_says_nothing_or_was_dropped(breaker, clock):
    finish(breaker, *[BAD] * 20)
    clock.advance(60)
    assert breaker.room() == 2
    finish(breaker, *[JUNK] * 100)
    assert not breaker.has_enough_of(partition(0), assigned=2)
    breaker.admitted(source(1000))
    assert breaker.has_enough_of(partition(0), assigned=2)
    breaker.forget([partition(0)])
    assert not breaker.has_enough_of(partition(0), assigned=2)


def test_it_opens_with_one_line_that_says_why_and_what_to_do(breaker, clock):
    with capture_logs() as lines:
        for place in (places := [source(2000 + n) for n in range(500)]):
            breaker.admitted(place)
        for place in places:
            breaker.outcome(place, Reason.INFERENCE_FAILED)
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("breaker_opened", "error")
    assert (line["refused"], line["of"], line["reasons"]) == (20, 20, {"inference_failed": 20})
    assert line["partitions"] == [0]
    assert "batch_failed" in line["cure"]
    assert "VIRNUCPRO_BREAKER_SHARE" in line["cure"]
    with capture_logs() as lines:
        for reason in (BAD, None):
            clock.advance(60)
            breaker.room()
            finish(breaker, reason, reason)
    assert [line["event"] for line in lines] == ["breaker_trial_failed", "breaker_closed"]


def test_a_share_of_one_never_opens_it(clock):
    breaker = Breaker(window=10, share=1.0, pause_s=1.0, clock=clock)
    finish(breaker, *[BAD] * 100)
    assert not breaker.is_open
