"""Lets a repeated log line through now and then: one rule for every place that may say the same thing many times."""

from __future__ import annotations

from collections.abc import Hashable

from consumer.clock import Clock, monotonic

EVERY_S = 30.0
MAX_KINDS = 1000


class Throttle:
    """Allows each kind of line once in `every_s` seconds.

    Remembers at most `max_kinds` kinds, and forgets the one that it has known longest when another comes.
    """

    def __init__(
        self, every_s: float = EVERY_S, clock: Clock = monotonic, max_kinds: int = MAX_KINDS
    ) -> None:
        self._every_s, self._clock, self._max_kinds = every_s, clock, max_kinds
        self._due: dict[Hashable, float] = {}

    def allows(self, kind: Hashable) -> bool:
        """True if a line of this kind may be logged now; then the next one may be in `every_s` seconds."""
        now = self._clock()
        if now < self._due.get(kind, now):
            return False
        self._due.pop(kind, None)
        if len(self._due) >= self._max_kinds:
            del self._due[next(iter(self._due))]
        self._due[kind] = now + self._every_s
        return True
