"""The last minutes of the service, for small charts: sums of each five seconds, and the lag at the end of each."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

SLOT_S = 5
SLOTS = 180


@dataclass(frozen=True, slots=True)
class HistoryView:
    """The slots that have ended, the oldest first; all tuples have the same length.

    Attributes:
        ended_s: seconds since the last of them ended.
        records, dead_letters, tokens: sums over a slot.
        busy_s: seconds in which the device computed.
        lag_records, lag_s: at the end of the slot, of all partitions together and of the one that is latest; None while
            that was not known.
    """

    ended_s: float
    records: tuple[int, ...]
    dead_letters: tuple[int, ...]
    tokens: tuple[int, ...]
    busy_s: tuple[float, ...]
    lag_records: tuple[int | None, ...]
    lag_s: tuple[float | None, ...]


@dataclass(slots=True)
class _Slot:
    number: int
    records: int = 0
    dead_letters: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    lag_records: int | None = None
    lag_s: float | None = None


class History:
    """Keeps `SLOTS` slots of `SLOT_S` seconds; not safe from several threads. `now` is monotonic seconds."""

    def __init__(self, begun_at: float) -> None:
        self._slots: deque[_Slot] = deque([_Slot(int(begun_at // SLOT_S))], SLOTS + 1)

    def add_answer(self, now: float, tokens: int, dead: bool) -> None:
        """A record was answered, by a prediction of so many tokens or by a dead letter."""
        slot = self._slot(now)
        slot.records += 1
        slot.dead_letters += dead
        slot.tokens += tokens

    def add_batch(self, now: float, seconds: float) -> None:
        """The device computed a batch."""
        self._slot(now).busy_s += seconds

    def set_lag(self, now: float, records: int, seconds: float) -> None:
        """The lag at this moment."""
        slot = self._slot(now)
        slot.lag_records, slot.lag_s = records, seconds

    def view(self, now: float) -> HistoryView:
        """The slots that have ended by now."""
        current = self._slot(now)
        ended = [slot for slot in self._slots if slot is not current]
        return HistoryView(
            now - current.number * SLOT_S,
            tuple(slot.records for slot in ended),
            tuple(slot.dead_letters for slot in ended),
            tuple(slot.tokens for slot in ended),
            tuple(slot.busy_s for slot in ended),
            tuple(slot.lag_records for slot in ended),
            tuple(slot.lag_s for slot in ended),
        )

    def _slot(self, now: float) -> _Slot:
        """The slot of this moment; those between it and the last one are empty."""
        number = int(now // SLOT_S)
        last = self._slots[-1].number
        for missing in range(max(last + 1, number - SLOTS), number + 1):
            self._slots.append(_Slot(missing))
        return self._slots[-1]
