"""Backpressure: hold first, pause when that lasts, open again at half."""

from __future__ import annotations

import pytest

from consumer.intake.backpressure import Backpressure
from consumer.types import InFlight
from tests.support.factories import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def backpressure(clock) -> Backpressure:
    return Backpressure(max_records=100, max_bytes=1000, max_tokens=50, hold_s=1.0, clock=clock)


@pytest.mark.parametrize(
    ("records", "size", "tokens"), [(100, 0, 0), (0, 1000, 0), (0, 0, 50), (150, 5000, 90)]
)
def test_a_full_budget_holds_and_then_pauses(backpressure, clock, records, size, tokens):
    assert backpressure.level(InFlight(99, 999, 49)) == "open"
    assert backpressure.level(InFlight(records, size, tokens)) == "hold"
    clock.advance(0.9)
    assert backpressure.level(InFlight(records, size, tokens)) == "hold"
    clock.advance(0.2)
    assert backpressure.level(InFlight(records, size, tokens)) == "pause"


def test_it_opens_at_half_not_below_the_top(backpressure):
    backpressure.level(InFlight(100, 0, 0))
    assert backpressure.level(InFlight(51, 0, 0)) == "hold"
    assert backpressure.level(InFlight(50, 501, 0)) == "hold"
    assert backpressure.level(InFlight(50, 500, 26)) == "hold"
    assert backpressure.level(InFlight(50, 500, 25)) == "open"
    assert backpressure.level(InFlight(99, 0, 0)) == "open"


def test_a_second_hold_gets_its_own_time(backpressure, clock):
    backpressure.level(InFlight(100, 0, 0))
    clock.advance(5)
    assert backpressure.level(InFlight(100, 0, 0)) == "pause"
    assert backpressure.level(InFlight(0, 0, 0)) == "open"
    assert backpressure.level(InFlight(100, 0, 0)) == "hold"


@pytest.mark.parametrize(
    ("held", "limit"),
    [(InFlight(100, 0, 0), "records"), (InFlight(0, 2000, 60), "bytes"), (InFlight(100, 1000, 75), "tokens")],
)
def test_it_names_the_budget_that_stopped_reading_until_it_goes_on(backpressure, held, limit):
    assert backpressure.limit is None
    backpressure.level(held)
    backpressure.level(InFlight(60, 600, 30))
    assert backpressure.limit == limit
    backpressure.level(InFlight(0, 0, 0))
    assert backpressure.limit is None
