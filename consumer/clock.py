"""Time for the service: one monotonic clock that tests replace, and one type for every time budget.

Follows quix-streams' ``checkpointing/deadline.py``: whoever waits is handed a `Deadline` and asks it what is
left, so nested waits share one budget instead of adding theirs up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
"""Returns seconds on a clock that never goes back; `time.monotonic` outside tests."""

monotonic: Clock = time.monotonic


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time until which work may go on."""

    at: float
    clock: Clock = monotonic

    @classmethod
    def after(cls, seconds: float, clock: Clock = monotonic) -> Deadline:
        return cls(clock() + seconds, clock)

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at - self.clock())

    @property
    def expired(self) -> bool:
        return self.clock() >= self.at
