"""Backpressure: whether the service may read more, given what it holds already.

Two brakes. *Hold* is the normal one: the service just doesn't read for a moment, and what librdkafka has
prefetched stays where it is. A hold that lasts would keep rebalances waiting, so after `hold_s` the service
*pauses* its partitions and goes on polling: that costs the prefetched data, which has to be fetched again.
Reading goes on when all budgets are down to half.

Records and bytes bound what the process holds; tokens bound what waits for the device, so that a stream of long
records does not queue minutes of work that a revoke would throw away.
"""

from __future__ import annotations

from consumer.clock import Clock, monotonic
from consumer.types import InFlight, Level, Limit

HOLD_S = 1.0


class Backpressure:
    """The budgets on records and bytes in flight, and on tokens that wait for a batch.

    Args:
        max_records, max_bytes, max_tokens: over any of them, nothing more is read.
        hold_s: how long a hold may last before the partitions are paused.
    """

    def __init__(
        self,
        max_records: int,
        max_bytes: int,
        max_tokens: int,
        hold_s: float = HOLD_S,
        clock: Clock = monotonic,
    ) -> None:
        self._max_records, self._max_bytes, self._max_tokens = max_records, max_bytes, max_tokens
        self._hold_s, self._clock = hold_s, clock
        self._full_since: float | None = None
        self.limit: Limit | None = None
        """The budget that stopped reading last; None while reading goes on."""

    def level(self, held: InFlight) -> Level:
        """Whether more may be read while this much is in flight."""
        shares: dict[Limit, float] = {
            "records": held.records / self._max_records,
            "bytes": held.bytes / self._max_bytes,
            "tokens": held.tokens / self._max_tokens,
        }
        fullest = max(shares, key=shares.__getitem__)
        if self._full_since is None:
            if shares[fullest] < 1:
                return "open"
            self._full_since, self.limit = self._clock(), fullest
        elif shares[fullest] <= 0.5:
            self._full_since = self.limit = None
            return "open"
        return "hold" if self._clock() - self._full_since < self._hold_s else "pause"
