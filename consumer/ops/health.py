"""Whether the service is alive and whether it is ready, as the probes of a supervisor ask it.

Alive: the loop that owns Kafka has turned lately. Ready: the model is loaded, the consumer is a member of its
group, a broker answers, most records can be predicted, and the service is not shutting down. Written by the loop,
read by the HTTP thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consumer.clock import Clock, monotonic

STUCK_AFTER_S = 60.0


@dataclass(slots=True)
class Health:
    """The state behind /livez and /readyz; every field is replaced as a whole, so no lock is needed."""

    clock: Clock = monotonic
    on_ready: Callable[[], None] | None = None
    turns: int = 0
    _last_turn: float | None = None
    _joined: bool = False
    _brokers_up: bool = True
    _breaker_open: bool = False
    _stopping: bool = False

    def turned(self) -> None:
        """The loop has gone round once more."""
        self.turns += 1
        self._last_turn = self.clock()

    def joined(self) -> None:
        """The consumer has got an assignment, perhaps an empty one."""
        self._joined = True
        if self.on_ready is not None:
            announce, self.on_ready = self.on_ready, None
            announce()

    def brokers(self, up: bool) -> None:
        """Is any broker reachable?"""
        self._brokers_up = up

    def breaker(self, is_open: bool) -> None:
        """Has reading stopped because most records are refused?"""
        self._breaker_open = is_open

    def stopping(self) -> None:
        """The service drains; it takes nothing new."""
        self._stopping = True

    def stuck_for(self) -> float | None:
        """Seconds since the last turn of the loop if that is too long, else None; never before the first turn."""
        if self._last_turn is None:
            return None
        age = self.clock() - self._last_turn
        return age if age > STUCK_AFTER_S else None

    def not_ready(self) -> str | None:
        """Why no traffic should count on this process now, or None when it is ready."""
        if self._stopping:
            return "shutting down"
        if self._last_turn is None:
            return "starting"
        if self.stuck_for() is not None:
            return "the main loop hangs"
        if not self._brokers_up:
            return "no Kafka broker answers"
        if not self._joined:
            return "joining the consumer group"
        if self._breaker_open:
            return "most records are refused, see vnp_dead_letters_total: reading has stopped"
        return None
