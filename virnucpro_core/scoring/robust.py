"""Compute a batch so that one record that cannot be computed, or too little memory, costs no other record.

A batch that fails does not say which of its records is at fault, so it is split in two, again and again, until the
record that fails stands alone; it is tried once more before it is given up. Its neighbours lose only time: k bad
records among n cost about k log n further runs. If memory runs out the batch is halved and no record is blamed,
unless a single frame does not fit. A lost device ends the process (`DeviceLost` passes through).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.errors import DeviceLost, OutOfMemory
from virnucpro_core.scoring.pending import PendingRecord, Record, Slot, by_record

ATTEMPTS_ALONE = 2
"""Runs of a record that fails alone before it is given up."""
FAILURES = (RuntimeError, ValueError, LookupError, ArithmeticError)
"""What a model raises for an input that it cannot take; an exception of another kind passes through."""

FailedRun = Literal["out_of_memory", "error"]

RunBatch = Callable[[Sequence[Slot[Record]]], NDArray[np.float32]]
"""Frames of one or more records -> float32 [frames, columns]."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a record is given up. Holds text only: an exception would keep the tensors of its frames alive.

    Attributes:
        kind: "out_of_memory" if a single frame did not fit.
        error: name of the exception of the last run.
        reason: its message, on one line.
        attempts: runs of this record alone that failed.
    """

    kind: FailedRun
    error: str
    reason: str
    attempts: int

    @property
    def detail(self) -> str:
        """One line."""
        cause = f"{self.error}: {self.reason}"[:300]
        if self.kind == "out_of_memory":
            return f"one frame of this record does not fit into the device's memory ({cause})"
        return f"the model failed {self.attempts} times on this record alone ({cause})"


ListenedRecord = TypeVar("ListenedRecord", bound=PendingRecord, contravariant=True)


class ScoringListener(Protocol[ListenedRecord]):
    """What `score_robustly` reports; called on its thread, in the order in which things happen."""

    def run_failed(self, failure: Failure, records: int, frames: int) -> None:
        """One run of the model, on so much, failed; its frames are run again, or their record is given up."""

    def computed(self, record: ListenedRecord) -> None:
        """All frames of this record have their row."""

    def given_up(self, record: ListenedRecord, failure: Failure) -> None:
        """This record cannot be computed; `record.failure` is set. What it raises ends the whole call."""


def score_robustly(
    run: RunBatch[Record], slots: Sequence[Slot[Record]], listener: ScoringListener[Record]
) -> None:
    """Compute the frames of a batch and keep each row with its record; frames of records given up are left out.

    Args:
        run: computes frames; called with the whole batch first, with parts of it if that fails.
        slots: those of one record together.
        listener: notified of every record that is complete or given up.

    Raises:
        DeviceLost: from the model; the records of the batch are neither computed nor given up.
    """
    _Robust(run, listener).score(slots, 1)


@dataclass(frozen=True, slots=True)
class _Robust(Generic[Record]):
    run: RunBatch[Record]
    listener: ScoringListener[Record]

    def score(self, slots: Sequence[Slot[Record]], attempt: int) -> None:
        slots = [slot for slot in slots if slot.record.failure is None]
        if not slots:
            return
        failure = self._try(slots, attempt)
        # Outside of any `except`: an exception that is being handled would keep the tensors of the failed run alive.
        if failure is None:
            return
        records = list(by_record(slots))
        self.listener.run_failed(failure, len(records), len(slots))
        if failure.kind == "out_of_memory" and len(slots) > 1:
            self._score_parts(slots[: len(slots) // 2], slots[len(slots) // 2 :])
        elif failure.kind == "error" and len(records) > 1:
            middle = len(records) // 2
            self._score_parts(list(chain(*records[:middle])), list(chain(*records[middle:])))
        elif failure.kind == "error" and attempt < ATTEMPTS_ALONE:
            self.score(slots, attempt + 1)
        else:
            slots[0].record.failure = failure.detail
            self.listener.given_up(slots[0].record, failure)

    def _try(self, slots: Sequence[Slot[Record]], attempt: int) -> Failure | None:
        try:
            rows = self.run(slots)
            if rows.ndim != 2 or len(rows) != len(slots):
                raise ValueError(f"the model gave values of shape {rows.shape} for {len(slots)} frames")
        except DeviceLost:
            raise
        except FAILURES as error:
            kind: FailedRun = "out_of_memory" if isinstance(error, OutOfMemory) else "error"
            return Failure(kind, type(error).__name__, " ".join(str(error).split()), attempt)
        for slot, row in zip(slots, rows, strict=True):
            slot.record.keep(slot.index, row)
            if not slot.record.missing:
                self.listener.computed(slot.record)
        return None

    def _score_parts(self, first: Sequence[Slot[Record]], second: Sequence[Slot[Record]]) -> None:
        self.score(first, 1)
        self.score(second, 1)
