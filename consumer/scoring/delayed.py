"""Messages that cannot be prepared now, because a dependency of the codec does not answer: they are tried again.

The first try comes after half a second, then after twice as long each time, up to half a minute. A message that waits
here has not been started: it is dropped when its partition goes away. How many may wait is bounded by admission, like
everything that is in flight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

import structlog

from consumer.clock import Clock, monotonic
from consumer.types import RawMessage, Source

log = structlog.get_logger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 30.0


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    due_at: float
    number: int
    message: RawMessage
    tries: int


class DelayedMessages:
    """All methods are safe from any thread."""

    def __init__(self, clock: Clock = monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._heap: list[_Waiting] = []
        self._numbers = count()
        self._reported = False

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, message: RawMessage, tries: int, reason: str) -> float:
        """Keep a message that was tried so often; gives the seconds until it is tried again."""
        seconds: float = min(FIRST_RETRY_S * 2.0 ** min(tries - 1, 10), LONGEST_RETRY_S)
        with self._lock:
            heappush(self._heap, _Waiting(self._clock() + seconds, next(self._numbers), message, tries))
            first, self._reported = not self._reported, True
        if first:
            log.warning("dependency_unavailable", source=str(message.source), reason=reason)
        return seconds

    def take_due(self) -> tuple[RawMessage, int] | None:
        """A message that is due, and how often it was tried; None if none is due."""
        with self._lock:
            if not self._heap or self._heap[0].due_at > self._clock():
                return None
            due = heappop(self._heap)
            return due.message, due.tries

    def due_in(self, at_most: float) -> float:
        """Seconds until a message is due."""
        with self._lock:
            return min(at_most, max(0.0, self._heap[0].due_at - self._clock())) if self._heap else at_most

    def prepared(self) -> None:
        """A message that was delayed could be prepared."""
        with self._lock:
            over, self._reported = self._reported and not self._heap, self._reported and bool(self._heap)
        if over:
            log.info("dependency_available")

    def discard(self, unwanted: Callable[[Source], bool]) -> None:
        """Drop the messages that are no longer wanted."""
        with self._lock:
            self._heap = [waiting for waiting in self._heap if not unwanted(waiting.message.source)]
            heapify(self._heap)
            self._reported = self._reported and bool(self._heap)
