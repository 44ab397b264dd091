"""The circuit breaker: when most records fail, it is not the records.

A deployment that broke the schema, a producer gone wrong, a model that fails on everything: each would pour the whole
input into the dead-letter topic, from where it must be replayed. So when more than a share of the latest
records was refused, the service stops reading and says so (unready, `vnp_breaker_open`, one line in the log). After a
pause it reads a few for trial: if they pass it reads on, else it pauses again. What was in flight when it opened is
answered as usual.

The idea is arroyo's (`arroyo/dlq.py`, `DlqLimit`); there the limit ends the process.
"""

from __future__ import annotations

from collections import Counter, deque

import structlog

from consumer.clock import Clock, monotonic
from schemas import Reason

log = structlog.get_logger(__name__)

_TRIAL = 10  # a trial is this part of the window


class Breaker:
    """Watches the outcomes of records, on the thread of the loop.

    Args:
        window: so many of the latest records are looked at; it never opens before it has seen as many.
        share: it opens when more than this share of them was refused; with 1 it never does.
        pause_s: seconds from one trial to the next.
    """

    def __init__(self, window: int, share: float, pause_s: float, clock: Clock = monotonic) -> None:
        self._window, self._share, self._pause_s, self._clock = window, share, pause_s, clock
        self._outcomes: deque[Reason | None] = deque()
        self._refused = 0
        self._next_trial: float | None = None  # None while closed
        self._left = 0
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Most records failed, and no trial has passed since."""
        return self._next_trial is not None

    def room(self) -> int | None:
        """How many records may be read now; None is any number. Begins a trial when one is due."""
        if self._next_trial is None:
            return None
        if self._clock() >= self._next_trial:
            self._next_trial = self._clock() + self._pause_s
            self._left = self._trial
            # What was in flight when it opened says nothing; an earlier trial that is not full does.
            if not self._trying:
                self._trying = True
                self._forget()
        return self._left

    def admitted(self) -> None:
        """A record was read."""
        self._left = max(0, self._left - 1)

    def outcome(self, reason: Reason | None) -> None:
        """A record is finished; `reason` says why it was refused, None that it was not."""
        self._outcomes.append(reason)
        self._refused += reason is not None
        if len(self._outcomes) > self._window:
            self._refused -= self._outcomes.popleft() is not None
        if len(self._outcomes) < (self._trial if self.is_open else self._window):
            return
        if self._refused > self._share * len(self._outcomes):
            self._open()
        elif self.is_open:
            self._next_trial, self._trying = None, False
            log.info("breaker_closed")

    @property
    def _trial(self) -> int:
        return max(1, self._window // _TRIAL)

    def _open(self) -> None:
        if not self.is_open or self._left == 0:
            reasons = Counter(reason for reason in self._outcomes if reason is not None)
            log.error(
                "breaker_opened",
                refused=self._refused,
                of=len(self._outcomes),
                mostly=reasons.most_common(1)[0][0].value,
                next_trial_in_s=self._pause_s,
            )
        self._next_trial = self._clock() + self._pause_s
        self._left = 0
        self._trying = False
        self._forget()

    def _forget(self) -> None:
        self._outcomes.clear()
        self._refused = 0
