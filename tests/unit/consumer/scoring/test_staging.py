"""When the next batch may be taken, by a clock that the test moves."""

from __future__ import annotations

import threading
import time

import pytest

from consumer.scoring.staging import Staging
from tests.support.factories import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def staging(clock) -> Staging:
    """A batch of 100 tokens has run in one second."""
    staging = Staging(clock)
    assert staging.wait(0)
    staging.begins(100)
    assert staging.wait(0), "at once: how long a batch takes is not known yet"
    staging.ended(100, 1.0)
    return staging


def test_one_is_allowed_at_the_start_and_one_for_each_that_begins(staging):
    assert not staging.wait(0)
    staging.begins(0)
    assert staging.wait(0)
    assert not staging.wait(0)


@pytest.mark.parametrize(
    ("tokens", "due_s"),
    [
        pytest.param(100, 0.9, id="a tenth of the time before the end"),
        pytest.param(50, 0.45, id="half the tokens take half the time"),
        pytest.param(10, 0.075, id="25 ms before the end of a short one"),
        pytest.param(2, 0.0, id="at once where that is longer than the batch"),
    ],
)
def test_it_is_due_late_in_the_batch(staging, clock, tokens, due_s):
    staging.begins(tokens)
    clock.advance(max(0.0, due_s - 0.001))
    assert staging.wait(0) == (due_s == 0)
    clock.advance(0.002)
    assert staging.wait(0) == (due_s > 0)


@pytest.mark.parametrize(
    ("enqueued_s", "due_s"), [(0.01, 0.9), (0.3, 0.675), (5.0, 0.5)], ids=["fast", "slow", "half at most"]
)
def test_a_slow_disk_or_slow_launches_make_it_due_earlier(staging, clock, enqueued_s, due_s):
    staging.enqueued(enqueued_s)
    staging.begins(100)
    clock.advance(due_s - 0.001)
    assert not staging.wait(0)
    clock.advance(0.002)
    assert staging.wait(0)


def test_one_slow_batch_is_forgotten_in_time(staging, clock):
    staging.enqueued(0.3)
    for _ in range(30):
        staging.enqueued(0.001)
    staging.begins(100)
    clock.advance(0.89)
    assert not staging.wait(0)


def test_it_is_due_when_the_batch_ends_early(staging):
    staging.begins(100)
    assert not staging.wait(0)
    staging.ended(100, 0.2)
    assert staging.wait(0)


def test_what_was_taken_is_not_allowed_again_by_the_end(staging, clock):
    staging.begins(100)
    clock.advance(0.95)
    assert staging.wait(0)
    staging.ended(100, 1.0)
    assert not staging.wait(0)


def test_the_expected_time_follows_the_device(staging, clock):
    for _ in range(20):
        staging.begins(100)
        staging.ended(100, 4.0)
        assert staging.wait(0)
    staging.begins(100)
    clock.advance(3.5)
    assert not staging.wait(0)
    clock.advance(0.2)
    assert staging.wait(0)


def test_a_thread_that_waits_is_woken_by_the_end_of_the_batch():
    staging = Staging()
    assert staging.wait(0)
    staging.begins(100)
    assert staging.wait(0)
    staging.ended(100, 100.0)
    staging.begins(100)
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(staging.wait(30)))
    begun = time.monotonic()
    thread.start()
    staging.ended(100, 0.1)
    thread.join(10)
    assert woken == [True]
    assert time.monotonic() - begun < 10
