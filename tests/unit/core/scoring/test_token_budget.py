"""The token budget that is measured, on a device whose cost the test sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.factories import FakeClock, prepared_frame
from tests.support.small_tokenizer import small_tokenizer
from virnucpro_core.errors import OutOfMemory
from virnucpro_core.scoring.model import Enqueued, FloatArray, WhenRead
from virnucpro_core.scoring.token_budget import Rate, doublings, measure_rates, suitable, typical_frames
from virnucpro_core.sequence.prepare import PreparedFrame, prepare

FRAMES = [prepared_frame(10), prepared_frame(6)]


class Costly:
    """A batch takes so many seconds, and so many a token; it fails beyond `memory` tokens."""

    def __init__(self, clock: FakeClock, a_batch: float, a_token: float, memory: int = 1 << 30) -> None:
        self._clock, self._a_batch, self._a_token, self._memory = clock, a_batch, a_token, memory
        self.tried: list[int] = []
        self.running = 0

    def enqueue(self, frames: Sequence[PreparedFrame]) -> Enqueued:
        tokens = sum(frame.tokens for frame in frames)
        if tokens > self._memory:
            raise OutOfMemory("full")
        self.tried.append(tokens)
        self.running += 1
        assert self.running <= 2

        def read() -> FloatArray:
            self.running -= 1
            self._clock.advance(self._a_batch + self._a_token * tokens)
            return np.zeros((len(frames), 2), dtype=np.float32)

        return WhenRead(read)


def measured(a_batch: float, a_token: float, most: int = 65_536, memory: int = 1 << 30) -> list[Rate]:
    clock = FakeClock()
    scorer = Costly(clock, a_batch, a_token, memory)
    rates = measure_rates(scorer, FRAMES, doublings(256, most), clock)
    assert scorer.running == 0, "all is read"
    assert max(scorer.tried) <= most
    return rates


def test_the_rate_is_that_of_full_batches() -> None:
    for rate in measured(0.001, 1e-6):
        tokens = rate.token_budget - rate.token_budget % 16 + (10 if rate.token_budget % 16 >= 10 else 0)
        assert rate.tokens_per_s == pytest.approx(tokens / (0.001 + 1e-6 * tokens), rel=1e-6)


@pytest.mark.parametrize(
    ("a_batch", "expected"),
    [
        pytest.param(0.0, 256, id="a batch costs nothing of itself: the smallest"),
        pytest.param(1e-5, 512, id="0.01 ms: 10 tokens"),
        pytest.param(1e-4, 8192, id="0.1 ms: 100 tokens are 2% of 5,000"),
        pytest.param(0.1, 65_536, id="the largest is still the best"),
    ],
)
def test_the_smallest_budget_within_two_percent_of_the_best_is_taken(a_batch: float, expected: int) -> None:
    assert suitable(measured(a_batch, 1e-6)).token_budget == expected


def test_nothing_larger_is_tried_once_it_gains_nothing() -> None:
    assert [rate.token_budget for rate in measured(1e-7, 1e-6)] == [256, 512, 1024]


def test_a_slow_device_is_not_tried_for_long() -> None:
    assert [rate.token_budget for rate in measured(1.0, 1e-3)] == [256, 512]


def test_memory_is_the_limit() -> None:
    rates = measured(0.1, 1e-6, memory=5000)
    assert [rate.token_budget for rate in rates] == [256, 512, 1024, 2048, 4096]
    assert suitable(rates).token_budget == 4096
    with pytest.raises(OutOfMemory):
        measured(0.1, 1e-6, memory=100)


@pytest.mark.parametrize(
    ("least", "most", "found"),
    [(502, 4096, [512, 1024, 2048, 4096]), (512, 600, [512]), (600, 512, [1024]), (1, 3, [1, 2])],
)
def test_budgets_are_powers_of_two_that_hold_a_frame(least: int, most: int, found: list[int]) -> None:
    assert doublings(least, most) == found


def test_frames_are_open_over_a_whole_chunk() -> None:
    frames = typical_frames(lambda name, letters: prepare(name, letters, 500, small_tokenizer()), 500, 20)
    assert len(frames) == 20
    assert max(frame.tokens for frame in frames) == 168
