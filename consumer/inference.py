"""What happens on the one thread that owns the device: score a batch, find the record that breaks it.

A batch that fails says nothing about which of its records is at fault, so it is split in two, again and again,
until the record that fails stands alone; it fails once more before it is given up. Its neighbours lose only
time: k bad records among n cost about k log n further runs. Lack of memory blames nobody: the batch is halved
and run again. A lost device is beyond repair in this process, and is not caught here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from consumer.batcher import RecordJob, Slot
from consumer.work import Finished, Refused, Scored
from schemas import Reason
from virnucpro_core.assemble import assemble
from virnucpro_core.errors import DeviceLost, OutOfMemory
from virnucpro_core.prepare import PreparedFrame

log = structlog.get_logger(__name__)

_FAILURES = (RuntimeError, ValueError, LookupError, ArithmeticError)
"""What a model raises for an input that it cannot take; a bug of another kind ends the process."""
_ATTEMPTS_ALONE = 2


class Scorer(Protocol):
    """The model: `virnucpro_core.models.engine.Engine`, or a stand-in of a test."""

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        """Softmax scores [frames, 2] (others, virus), float32."""


class Inference:
    """Scores batches and hands over each record when the last of its frames is done.

    Args:
        scorer: the model.
        finish: called for each finished record, on the calling thread.
        failed: called with "out_of_memory" or "error" for each run of the model that failed.
    """

    def __init__(
        self,
        scorer: Scorer,
        finish: Callable[[Finished], None],
        failed: Callable[[str], None],
    ) -> None:
        self._scorer, self._finish, self._failed = scorer, finish, failed

    def run(self, slots: Sequence[Slot]) -> None:
        """Score one batch.

        Raises:
            DeviceLost: the device is gone; nothing of this batch is finished.
            OutOfMemory: not even one frame fits.
        """
        self._score([slot for slot in slots if slot.job.failure is None])

    def _score(self, slots: Sequence[Slot], attempt: int = 1) -> None:
        if not slots:
            return
        try:
            scores = self._scorer.score([slot.frame for slot in slots])
            if scores.shape != (len(slots), 2):
                raise ValueError(f"the model gave scores of shape {scores.shape} for {len(slots)} frames")
        except DeviceLost:
            raise
        except OutOfMemory:
            self._failed("out_of_memory")
            if len(slots) == 1:
                raise
            log.warning("batch halved: the device ran out of memory", frames=len(slots))
            self._score_parts([slots[: len(slots) // 2], slots[len(slots) // 2 :]])
        except _FAILURES as error:
            self._failed("error")
            self._isolate(slots, attempt, error)
        else:
            self._keep(slots, scores)

    def _isolate(self, slots: Sequence[Slot], attempt: int, error: Exception) -> None:
        records = list(_by_record(slots))
        if len(records) > 1:
            log.warning("batch split: it failed", records=len(records), error=str(error))
            middle = len(records) // 2
            self._score_parts([list(chain(*records[:middle])), list(chain(*records[middle:]))])
        elif attempt < _ATTEMPTS_ALONE:
            self._score(slots, attempt + 1)
        else:
            job = slots[0].job
            job.failure = f"the model failed {attempt} times on this record alone ({_one_line(error)})"
            log.error("record given up", source=str(job.source), error=str(error))
            refused = Refused(Reason.INFERENCE_FAILED, "inference", job.failure, attempt)
            self._finish(Finished(job.source, refused))

    def _score_parts(self, parts: Sequence[Sequence[Slot]]) -> None:
        for part in parts:
            self._score([slot for slot in part if slot.job.failure is None])

    def _keep(self, slots: Sequence[Slot], scores: NDArray[np.float32]) -> None:
        for slot, score in zip(slots, scores, strict=True):
            job = slot.job
            job.scores[slot.index] = score
            job.missing -= 1
            if job.missing == 0:
                self._finish(Finished(job.source, scored(job)))


def scored(job: RecordJob) -> Scored:
    """The outcome of a record whose frames, if it has any, are all scored."""
    return Scored(assemble(job.prepared, job.scores), job.prepared.tokens)


def _by_record(slots: Sequence[Slot]) -> Iterator[list[Slot]]:
    for _, group in groupby(slots, key=lambda slot: id(slot.job)):
        yield list(group)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
