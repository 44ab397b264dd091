"""When the next batch is taken: late in the batch that runs, so that records which come meanwhile are in it.

A batch that is taken when the one before it begins is closed for all that comes in its whole time: a small record then
waits for the rest of the batch that runs, for the staged one and for its own. Taken shortly before the end it waits for
two batches at most, and the device still finds the next batch in its queue.
"""

from __future__ import annotations

import threading

from consumer.clock import Clock, monotonic

_LEAD = 0.1  # the share of a batch's expected time that is left when the next one is taken
_LEAD_S = 0.025  # and no less than this, beside what it takes to enqueue a batch
_MOST = 0.5  # of the expected time, however slow the disk is
_FADES = 0.9  # what is left of a slow batch in the next one
_WEIGHT = 0.3  # of the latest batch in the mean time of a token


class Staging:
    """Says to one thread when it may take the next batch; the thread that infers says how far it is.

    Each batch that begins allows one to be taken; the first is allowed from the start. All methods are safe from any
    thread.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        self._clock = clock
        # When the next batch may be taken; None until another one begins.
        self._due: float | None = clock()
        self._token_s: float | None = None
        self._enqueued_s = 0.0
        self._changed = threading.Condition()

    def begins(self, tokens: int) -> None:
        """A batch of so many tokens begins; the next one is due late in its expected time.

        At once while no batch has been timed, and where it takes no longer than the lead.
        """
        with self._changed:
            expected = tokens * (self._token_s or 0.0)
            lead = max(_LEAD * expected, _LEAD_S, min(_LEAD_S + self._enqueued_s, _MOST * expected))
            self._due = self._clock() + expected - lead
            self._changed.notify_all()

    def enqueued(self, seconds: float) -> None:
        """From being taken until the device had it in its queue a batch took so long: its suspects were written, and
        hundreds of kernels launched beside other threads."""
        with self._changed:
            self._enqueued_s = max(seconds, _FADES * self._enqueued_s)

    def ended(self, tokens: int, seconds: float) -> None:
        """It has run, in so many seconds: the next one is due now, if it has not been taken."""
        with self._changed:
            if tokens:
                latest = seconds / tokens
                mean = latest if self._token_s is None else self._token_s
                self._token_s = mean + _WEIGHT * (latest - mean)
            if self._due is not None:
                self._due = self._clock()
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until a batch may be taken; True, once for each batch, if it may."""
        end = self._clock() + timeout
        with self._changed:
            while self._due is None or self._clock() < self._due:
                left = min(end, self._due or end) - self._clock()
                if self._clock() >= end:
                    return False
                self._changed.wait(left)
            self._due = None
            return True
