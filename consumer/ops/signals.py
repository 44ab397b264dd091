"""SIGTERM and SIGINT, as a supervisor and a person at a terminal send them.

Before the service serves there is nothing to drain, and a signal ends the process at once, with code 0. Then the first
signal asks for a drain, and starts a watchdog for the case that a broker or a device never lets it end; a second signal
ends the process at once, with 128 and its number as the exit code. What was not committed is done again by the next
process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

from consumer.errors import ExitCode

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_STOPPED = 128
"""Added to a signal's number it is the exit code of a process that the signal ended."""


class StopSignals:
    """Handles the signals inside the `with` block, on the main thread.

    Args:
        patience_s: seconds from the first signal to the watchdog's end of the process.
    """

    def __init__(self, patience_s: float) -> None:
        self._serving = self._asked = False
        self._watchdog = threading.Timer(patience_s, os._exit, [int(ExitCode.RUNTIME)])
        self._watchdog.daemon = True
        self._before = {number: signal.getsignal(number) for number in _NUMBERS}

    def __enter__(self) -> StopSignals:
        for number in _NUMBERS:
            signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def serving(self) -> None:
        """From now on a signal asks for a drain."""
        self._serving = True

    def asked(self) -> bool:
        """True once a signal has asked for a drain."""
        return self._asked

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self._serving:
            sys.exit(ExitCode.OK)
        if self._asked:
            os._exit(_STOPPED + number)
        self._asked = True
        self._watchdog.start()
