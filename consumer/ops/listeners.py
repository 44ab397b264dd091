"""Who hears what the service does: the metrics, the log, the monitor, and whatever comes next.

The pipeline reports to a `PipelineListener`, delivery to a `DeliveryListener`, the loop by `Event`s. A `Listener` takes
all of these, and picks the events that it has a use for; `Listeners` passes each report to several, in their order. A
listener must neither block nor raise: it is called in the middle of the work, on the thread that does it (the inference
thread for batches, the loop's for everything else).
"""

from __future__ import annotations

from typing import Protocol

from consumer.delivery.answers import Answer
from consumer.delivery.delivery_listener import CommitOutcome, DeliveryListener
from consumer.ops.events import Event
from consumer.scoring.batcher import Batch
from consumer.scoring.pipeline import PipelineListener


class LoopObserver(Protocol):
    """What the service's loop reports to."""

    def happened(self, event: Event) -> None:
        """One event of the loop, on its thread."""


class Listener(PipelineListener, DeliveryListener, LoopObserver, Protocol):
    """Takes every report."""


class Listeners:
    """Passes each report on to all of its listeners; itself a `Listener`."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def happened(self, event: Event) -> None:
        for listener in self._listeners:
            listener.happened(event)

    def batch_done(self, batch: Batch, seconds: float) -> None:
        for listener in self._listeners:
            listener.batch_done(batch, seconds)

    def batch_failed(self, kind: str) -> None:
        for listener in self._listeners:
            listener.batch_failed(kind)

    def computed(self, protein_tokens: int, nucleotide_tokens: int) -> None:
        for listener in self._listeners:
            listener.computed(protein_tokens, nucleotide_tokens)

    def frames_reused(self, frames: int) -> None:
        for listener in self._listeners:
            listener.frames_reused(frames)

    def record_delayed(self) -> None:
        for listener in self._listeners:
            listener.record_delayed()

    def delivered(self, answer: Answer) -> None:
        for listener in self._listeners:
            listener.delivered(answer)

    def committed(self, outcome: CommitOutcome) -> None:
        for listener in self._listeners:
            listener.committed(outcome)
