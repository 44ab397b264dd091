"""Backpressure: whether the service may read more, given what it holds already.

Two brakes. *Hold* is the normal one: the service just doesn't read for a moment, and what librdkafka has
prefetched stays where it is. A hold that lasts would keep rebalances waiting, so after `hold_s` the service
*pauses* its partitions and goes on polling: that costs the prefetched data, which has to be fetched again.
Reading goes on when both budgets are down to half.
"""

from __future__ import annotations

from typing import Literal

from consumer.clock import Clock, monotonic

Level = Literal["open", "hold", "pause"]


class Admission:
    """The budgets on records and bytes in flight.

    Args:
        max_records, max_bytes: over either, nothing more is read.
        hold_s: how long a hold may last before the partitions are paused.
    """

    def __init__(
        self, max_records: int, max_bytes: int, hold_s: float = 1.0, clock: Clock = monotonic
    ) -> None:
        self._max_records, self._max_bytes = max_records, max_bytes
        self._hold_s, self._clock = hold_s, clock
        self._full_since: float | None = None

    def level(self, records: int, bytes_held: int) -> Level:
        """What to do now, with so many records and bytes in flight."""
        if self._full_since is None:
            if records < self._max_records and bytes_held < self._max_bytes:
                return "open"
            self._full_since = self._clock()
        elif 2 * records <= self._max_records and 2 * bytes_held <= self._max_bytes:
            self._full_since = None
            return "open"
        return "hold" if self._clock() - self._full_since < self._hold_s else "pause"

    def room(self, records: int) -> int:
        """How many more records may be read at once."""
        return max(0, self._max_records - records)
