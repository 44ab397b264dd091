"""Backpressure: which partitions may be read, given what the service holds of each already.

The budgets of records, bytes and tokens are shared by the assigned partitions (`consumer/shares.py`). A partition that
holds its share of one of them is *blocked*: it is paused and the others are read on, so that neither a backlog in one
partition nor a genome sent as one record keeps the others waiting. It is read again when it is down to half its share.

While every partition is blocked, nothing is read. There are two brakes then. *Hold* is the normal one: the service
just doesn't read for a moment, and what librdkafka has prefetched stays where it is. A hold that lasts would keep
rebalances waiting, so after `hold_s` the service *pauses* all partitions and goes on polling: that costs the
prefetched data, which has to be fetched again.

Records and bytes bound what the process holds, so over either of these budgets all partitions are blocked. Tokens bound
what waits for the device, so that a stream of long records does not queue minutes of work that a revoke would throw
away; a partition may exceed that share by one record, and counts with its share then.
"""

from __future__ import annotations

from collections.abc import Mapping

from consumer.clock import Clock, monotonic
from consumer.shares import fair_share
from consumer.types import InFlight, Level, Limit, Partition

HOLD_S = 1.0
_REOPEN = 0.5  # of a share
_NO_ROOM = InFlight(0, 0, 0)


class Backpressure:
    """The budgets on records and bytes in flight, and on tokens that wait for a batch.

    Args:
        max_records, max_bytes, max_tokens: of all partitions together.
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
        self._budgets: dict[Limit, int] = {"records": max_records, "bytes": max_bytes, "tokens": max_tokens}
        self._hold_s, self._clock = hold_s, clock
        self._full_since: float | None = None
        self.blocked: frozenset[Partition] = frozenset()
        """The partitions that hold their share; only some of them while others are read."""
        self.limit: Limit | None = None
        """The budget that stopped all reading; None while at least one partition is read."""
        self.room = _NO_ROOM
        """If less than so much more is read, of any partitions that are not blocked, none of them is blocked by it."""

    def is_clear(self, total: InFlight) -> bool:
        """Whether nothing is blocked, nor can be with so little in flight: no share is less than half its budget."""
        left = [budget * _REOPEN - held for held, budget in zip(total, self._budgets.values(), strict=True)]
        if self.blocked or min(left) <= 0:
            return False
        self.room = InFlight(*map(int, left))
        return True

    def level(self, held: Mapping[Partition, InFlight]) -> Level:
        """Whether more may be read while this much of each assigned partition is in flight; sets `blocked`."""
        shares = {
            limit: fair_share((amounts[place] for amounts in held.values()), budget)
            for place, (limit, budget) in enumerate(self._budgets.items())
        }
        fullest, is_full = self._fullest(held)
        self.blocked = frozenset(
            partition
            for partition, amounts in held.items()
            if is_full or self._blocks(partition, amounts, shares)
        )
        self.room = _NO_ROOM
        if not held or len(self.blocked) < len(held):
            self._full_since = self.limit = None
            self.room = self._room(held, shares)
            return "open"
        if self._full_since is None:
            self._full_since, self.limit = self._clock(), fullest
        return "hold" if self._clock() - self._full_since < self._hold_s else "pause"

    def _room(self, held: Mapping[Partition, InFlight], shares: Mapping[Limit, float]) -> InFlight:
        """Half of what the partition nearest to its share has left.

        What is read takes from that twice: its partition holds more, and every share is less by as much at most.
        """
        if len(self.blocked) == len(held):
            return _NO_ROOM
        open_ones = [amounts for partition, amounts in held.items() if partition not in self.blocked]
        left = []
        for place, (limit, share) in enumerate(shares.items()):
            room = (share - max(amounts[place] for amounts in open_ones)) / 2
            if limit != "tokens":  # all partitions together may not be over the others
                room = min(room, self._budgets[limit] - sum(amounts[place] for amounts in held.values()))
            left.append(int(room))
        return InFlight(*left)

    def _blocks(self, partition: Partition, amounts: InFlight, shares: Mapping[Limit, float]) -> bool:
        used = max(amount / share for amount, share in zip(amounts, shares.values(), strict=True))
        return used > _REOPEN if partition in self.blocked else used >= 1

    def _fullest(self, held: Mapping[Partition, InFlight]) -> tuple[Limit, bool]:
        """The budget that is used most, and whether what the process holds is over one."""
        used: dict[Limit, float] = {
            limit: sum(amounts[place] for amounts in held.values()) / budget
            for place, (limit, budget) in enumerate(self._budgets.items())
        }
        return max(used, key=used.__getitem__), max(used["records"], used["bytes"]) >= 1
