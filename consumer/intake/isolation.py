"""Suspects run apart: when nothing else is in flight, and with nothing read beside them.

A record that was on the device when the process died is a suspect (`consumer/scoring/quarantine.py`), but an
out-of-memory kill does not incriminate it while a backlog was in flight too. So a suspect waits here until everything
that was read before it is delivered, and reading stops until it is answered: if the process dies then, the suspect is
the cause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from consumer.ledger import Ledger
from consumer.types import RawMessage, Source


class Isolation:
    """Holds the suspects that were read, one as a rule. All methods run on the thread of the loop.

    Args:
        runs_alone: is the message at this place a suspect?
    """

    def __init__(self, runs_alone: Callable[[Source], bool] = lambda _: False) -> None:
        self._runs_alone = runs_alone
        self._messages: deque[RawMessage] = deque()
        self._started: Source | None = None

    @property
    def is_empty(self) -> bool:
        """Whether reading may go on: no suspect waits."""
        return not self._messages

    def takes(self, message: RawMessage) -> bool:
        """Keep a message that was just read if it is a suspect; returns whether it is."""
        if not self._runs_alone(message.source):
            return False
        self._messages.append(message)
        return True

    def next(self, ledger: Ledger) -> RawMessage | None:
        """The suspect to start now, once; forgets those that are delivered or no longer in the ledger."""
        self._messages = deque(message for message in self._messages if ledger.is_current(message.source))
        if not self._messages or ledger.records > len(self._messages):
            return None
        head = self._messages[0]
        if head.source == self._started:
            return None
        self._started = head.source
        return head
