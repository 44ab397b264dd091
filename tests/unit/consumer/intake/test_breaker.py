"""The circuit breaker: opens when most of the latest records were refused, tries a few, closes when they pass."""

from __future__ import annotations

import pytest

from consumer.intake.breaker import Breaker
from schemas import Reason
from tests.support.factories import FakeClock

BAD = Reason.MALFORMED


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock) -> Breaker:
    return Breaker(window=20, share=0.5, pause_s=60.0, clock=clock)


def finish(breaker: Breaker, *reasons: Reason | None) -> None:
    for reason in reasons:
        breaker.outcome(reason)


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
    breaker.admitted()
    assert breaker.room() == 1
    breaker.admitted()
    assert breaker.room() == 0
    finish(breaker, None)
    assert breaker.is_open
    finish(breaker, None)
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


def test_a_trial_whose_records_were_revoked_is_repeated(breaker, clock):
    finish(breaker, *[BAD] * 20)
    clock.advance(60)
    assert breaker.room() == 2
    breaker.admitted()
    breaker.admitted()
    clock.advance(60)
    assert breaker.room() == 2


def test_a_slow_stream_fills_a_trial_over_several_pauses(breaker, clock):
    finish(breaker, *[BAD] * 20)
    clock.advance(60)
    assert breaker.room() == 2
    finish(breaker, None)
    clock.advance(60)
    assert breaker.room() == 2, "more may be read"
    finish(breaker, None)
    assert not breaker.is_open


def test_what_was_in_flight_when_it_opened_does_not_count_for_the_trial(breaker, clock):
    finish(breaker, *[BAD] * 20)
    finish(breaker, BAD)
    clock.advance(60)
    assert breaker.room() == 2
    finish(breaker, None, None)
    assert not breaker.is_open


def test_a_share_of_one_never_opens_it(clock):
    breaker = Breaker(window=10, share=1.0, pause_s=1.0, clock=clock)
    finish(breaker, *[BAD] * 100)
    assert not breaker.is_open
