"""Ends the process when its loop hangs: a call of a client library that does not return cannot be ended otherwise.

Every call of the loop is given half a second or so. Where one does not keep to that (the known case is handled in
`consumer/delivery/transactions.py`), the member would keep its partitions, and nothing in them would move until an
operator notices. So the process ends with exit code 4, as for every Kafka client that cannot be used any more; its
supervisor starts a new one, whose first step aborts the open transaction, and nothing is lost or sent twice.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType

import structlog

from consumer.errors import ExitCode

log = structlog.get_logger(__name__)

PATIENCE_S = 30
_TICK_S = 1.0


class LoopWatchdog:
    """Checks once a second, inside the `with` block, whether the loop has turned.

    It counts its checks, not the clock's seconds, so that a frozen process or a sleeping laptop does not count as a
    hanging loop.

    Args:
        turns: how often the loop has turned; None while there is nothing to watch.
        patience: consecutive checks without a turn after which the loop counts as hanging.
        end: ends the process; it must not return to the loop.
    """

    def __init__(
        self,
        turns: Callable[[], int | None],
        patience: int = PATIENCE_S,
        tick_s: float = _TICK_S,
        end: Callable[[], None] = lambda: os._exit(ExitCode.KAFKA_FATAL),
    ) -> None:
        self._turns, self._patience, self._tick_s, self._end = turns, patience, tick_s, end
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> LoopWatchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        seen, looks = self._turns(), 0
        while not self._stopping.wait(self._tick_s):
            turns = self._turns()
            looks = looks + 1 if turns is not None and turns == seen else 0
            seen = turns
            if looks >= self._patience:
                log.critical(
                    "loop_hangs", seconds=looks, exit_code=int(ExitCode.KAFKA_FATAL), threads=_stacks()
                )
                self._end()
                return


def _stacks() -> str:
    """Where each thread is, the latest call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(number, number)}:\n{''.join(traceback.format_stack(frame)).rstrip()}"
        for number, frame in sys._current_frames().items()
    )
