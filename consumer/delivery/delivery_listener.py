"""What delivery reports: delivered answers and commits. `consumer/ops/listeners.py` passes it on to several."""

from __future__ import annotations

from typing import Literal, Protocol

from consumer.delivery.answers import Answer

CommitOutcome = Literal["ok", "rebalancing", "error", "hung"]
"""How a commit ended: "rebalancing" (the group's next owner does the work again), "error" (it is repeated), "hung" (the
client's call did not return, and a new producer repeats it)."""


class DeliveryListener(Protocol):
    """Hears what delivery does, on the thread that owns the clients; must neither wait nor raise."""

    def delivered(self, answer: Answer) -> None:
        """The answer to one message is in Kafka, and its offset is committed or about to be."""

    def committed(self, outcome: CommitOutcome) -> None:
        """A commit ended."""
