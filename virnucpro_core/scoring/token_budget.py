"""The token budget that suits a device: the smallest with nearly the best rate, and within memory.

A larger batch shares its fixed costs out over more tokens, but every record in it waits for all of it, so the smallest
budget within 2% of the best rate is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from virnucpro_core.errors import OutOfMemory
from virnucpro_core.scoring.model import PrepareSequence, QueueingScorer
from virnucpro_core.scoring.packing import how_many_fit
from virnucpro_core.sequence.prepare import PreparedFrame

Timer = Callable[[], float]
"""Seconds since any moment."""

_WITHIN = 0.98  # of the best rate
_GAIN = 1.01  # what two doublings must bring for a third to be tried
_ROUNDS = 3
_ROUND_S = 0.25
_MOST_S = 15.0  # of the whole measurement, and the budget under way
_LEAST_BATCHES = 2  # of a round: one behind the other, as the service runs them
_CODONS = [
    a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG", "TGA")
]


@dataclass(frozen=True, slots=True)
class Rate:
    """Protein tokens a second in batches of this budget."""

    token_budget: int
    tokens_per_s: float


def measure_rates(
    scorer: QueueingScorer, frames: Sequence[PreparedFrame], budgets: Sequence[int], timer: Timer
) -> list[Rate]:
    """The rates at rising budgets, until memory ends, two doublings gain next to nothing, or 15 seconds are over.

    Args:
        frames: what a batch is filled with, again and again; typical ones.

    Raises:
        OutOfMemory: not even the smallest budget fits.
    """
    rates: list[Rate] = []
    begun = timer()
    for budget in budgets:
        batch = _filled(frames, budget)
        try:
            rate = _rate(scorer, batch, timer)
        except OutOfMemory:
            if not rates:
                raise
            break
        rates.append(Rate(budget, rate))
        settled = len(rates) > 2 and rate < _GAIN * rates[-3].tokens_per_s
        if settled or timer() - begun > _MOST_S:
            break
    return rates


def suitable(rates: Sequence[Rate]) -> Rate:
    """The smallest budget within 2% of the best rate; ValueError without rates."""
    best = max(rate.tokens_per_s for rate in rates)
    return min(
        (rate for rate in rates if rate.tokens_per_s >= _WITHIN * best), key=lambda rate: rate.token_budget
    )


def doublings(least: int, most: int) -> list[int]:
    """Powers of two, from the first that is `least` or more, to `most`; at least one."""
    first = 1 << max(0, least - 1).bit_length()
    return list(_doubled(first, max(first, most)))


def typical_frames(prepare: PrepareSequence, bases: int, frames: int) -> list[PreparedFrame]:
    """Frames of chunks of so many bases, each open over its whole length."""
    random = np.random.default_rng(1)
    sequences = ("".join(random.choice(_CODONS, bases // 3 + 1))[:bases] for _ in count())
    found = (
        frame for number, sequence in enumerate(sequences) for frame in prepare(str(number), sequence).frames
    )
    return list(islice(found, frames))


def _doubled(first: int, most: int) -> Iterator[int]:
    while first <= most:
        yield first
        first *= 2


def _filled(frames: Sequence[PreparedFrame], budget: int) -> list[PreparedFrame]:
    """A batch as full as the budget allows."""
    endless = (frames[number % len(frames)] for number in count())
    taken, _, _ = how_many_fit(endless, budget)
    return [frames[number % len(frames)] for number in range(max(1, taken))]


def _rate(scorer: QueueingScorer, batch: Sequence[PreparedFrame], timer: Timer) -> float:
    """The median of a few rounds, after one batch that is not timed: kernels are compiled in it."""
    scorer.enqueue(batch).read()
    tokens = sum(frame.tokens for frame in batch)
    return statistics.median(_round(scorer, batch, timer) * tokens for _ in range(_ROUNDS))


def _round(scorer: QueueingScorer, batch: Sequence[PreparedFrame], timer: Timer) -> float:
    """Batches a second, each enqueued before the one ahead of it is read."""
    begun, read = timer(), 0
    ahead = scorer.enqueue(batch)
    while True:
        behind = scorer.enqueue(batch)
        ahead.read()
        read += 1
        ahead = behind
        if read >= _LEAST_BATCHES and timer() - begun >= _ROUND_S:
            break
    ahead.read()
    return (read + 1) / max(timer() - begun, 1e-9)
