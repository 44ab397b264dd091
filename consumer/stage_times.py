"""Where the time of a thread goes: seconds of each of its stages, which add up to its wall time.

A stage lasts until the thread enters another one, so no time is counted twice and none is left out; waiting is a stage.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from consumer.clock import Clock, monotonic


class StageTimes:
    """Entered by one thread, read by any.

    Args:
        thread: its name.
        stages: all of them; the thread begins in the first.
    """

    def __init__(self, thread: str, stages: Sequence[str], clock: Clock = monotonic) -> None:
        self.thread, self._clock = thread, clock
        self._stage, self._since = stages[0], clock()
        self._seconds = dict.fromkeys(stages, 0.0)
        self._lock = threading.Lock()

    def enter(self, stage: str) -> None:
        """The thread does something else from now on; raises KeyError for a stage that was not named at the start."""
        if stage not in self._seconds:
            raise KeyError(stage)
        with self._lock:
            # The clock is read inside the lock: no figure may be less than at an earlier call of `seconds`.
            now = self._clock()
            self._seconds[self._stage] += now - self._since
            self._stage, self._since = stage, now

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage until now, the current one included."""
        with self._lock:
            seconds = dict(self._seconds)
            seconds[self._stage] += self._clock() - self._since
        return seconds
