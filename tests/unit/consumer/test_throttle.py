"""Repeated log lines: each kind once in its interval, and a bounded number of kinds."""

from __future__ import annotations

import pytest

from consumer.throttle import Throttle
from tests.support.factories import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_a_kind_passes_once_in_its_interval(clock):
    throttle = Throttle(30.0, clock)
    passed = []
    for _ in range(100):
        passed.append(throttle.allows("a"))
        clock.advance(0.5)
    assert [second for second, ok in enumerate(passed) if ok] == [0, 60]


def test_kinds_do_not_hold_each_other_back(clock):
    throttle = Throttle(30.0, clock)
    assert [throttle.allows(kind) for kind in ("a", "b", "a", "b")] == [True, True, False, False]


def test_the_number_of_kinds_is_bounded_and_the_oldest_goes_first(clock):
    throttle = Throttle(30.0, clock, max_kinds=2)
    assert all(throttle.allows(kind) for kind in ("a", "b", "c"))
    assert not throttle.allows("c")
    assert not throttle.allows("b")
    assert throttle.allows("a"), "forgotten to make room"
