"""Backpressure: hold first, pause when that lasts, open again at half."""

from __future__ import annotations

import pytest

from consumer.intake.backpressure import Admission
from tests.support.factories import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def admission(clock) -> Admission:
    return Admission(max_records=100, max_bytes=1000, max_tokens=50, hold_s=1.0, clock=clock)


@pytest.mark.parametrize(
    ("records", "size", "tokens"), [(100, 0, 0), (0, 1000, 0), (0, 0, 50), (150, 5000, 90)]
)
def test_a_full_budget_holds_and_then_pauses(admission, clock, records, size, tokens):
    assert admission.level(99, 999, 49) == "open"
    assert admission.level(records, size, tokens) == "hold"
    clock.advance(0.9)
    assert admission.level(records, size, tokens) == "hold"
    clock.advance(0.2)
    assert admission.level(records, size, tokens) == "pause"


def test_it_opens_at_half_not_below_the_top(admission):
    admission.level(100, 0, 0)
    assert admission.level(51, 0, 0) == "hold"
    assert admission.level(50, 501, 0) == "hold"
    assert admission.level(50, 500, 26) == "hold"
    assert admission.level(50, 500, 25) == "open"
    assert admission.level(99, 0, 0) == "open"


def test_a_second_hold_gets_its_own_time(admission, clock):
    admission.level(100, 0, 0)
    clock.advance(5)
    assert admission.level(100, 0, 0) == "pause"
    assert admission.level(0, 0, 0) == "open"
    assert admission.level(100, 0, 0) == "hold"
