"""Stages of a thread add up to its time, whatever it enters and whenever they are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.stage_times import StageTimes
from tests.support.factories import FakeClock

STAGES = ("wait", "work", "write")


@given(st.lists(st.tuples(st.sampled_from(STAGES), st.integers(0, 1000), st.booleans()), max_size=30))
def test_the_stages_add_up_to_the_time_that_has_passed(steps):
    clock = FakeClock()
    times = StageTimes("inference", STAGES, clock)
    current, expected = "wait", dict.fromkeys(STAGES, 0.0)
    for stage, seconds, looks in steps:
        clock.advance(seconds)
        expected[current] += seconds
        if looks:
            assert times.seconds() == expected
        times.enter(stage)
        current = stage
    clock.advance(3)
    expected[current] += 3
    assert times.seconds() == expected
    assert sum(times.seconds().values()) == clock() - 100.0


def test_a_stage_that_was_not_named_is_refused():
    times = StageTimes("inference", STAGES)
    with pytest.raises(KeyError):
        times.enter("rest")
