"""What happens on the one thread that owns the device: score a batch, find the record that breaks it.

A batch that fails says nothing about which of its records is at fault, so it is split in two, again and again,
until the record that fails stands alone; it fails once more before it is given up. Its neighbours lose only
time: k bad records among n cost about k log n further runs. Lack of memory blames nobody: the batch is halved
and run again. A lost device is beyond repair in this process, and is not caught here.

A record that may have killed an earlier process runs alone, or not at all (`consumer/scoring/quarantine.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from typing import Literal, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from consumer.scoring.batcher import RecordJob, Slot
from consumer.types import Finished, Refused, Scored
from schemas import Reason
from virnucpro_core.errors import DeviceLost, OutOfMemory
from virnucpro_core.scoring.results import assemble
from virnucpro_core.sequence.prepare import PreparedFrame

log = structlog.get_logger(__name__)

_FAILURES = (RuntimeError, ValueError, LookupError, ArithmeticError)
"""What a model raises for an input that it cannot take; a bug of another kind ends the process."""
_ATTEMPTS_ALONE = 2


class Scorer(Protocol):
    """The model: `virnucpro_core.models.engine.Engine`, or a stand-in of a test."""

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        """Softmax scores [frames, 2] (others, virus), float32."""


Verdict = Literal["free", "alone", "condemned"]


class Suspects:
    """Who may have killed an earlier process; this one suspects nobody, `Quarantine` remembers."""

    def verdict(self, job: RecordJob) -> Verdict:
        """May this record run with others, alone, or not at all?"""
        return "free"

    def entering(self, jobs: Sequence[RecordJob]) -> None:
        """These records go to the device now."""

    def left(self, jobs: Sequence[RecordJob]) -> None:
        """They are back, and the process lives."""

    def cleared(self, job: RecordJob) -> None:
        """All of this record has run."""


class Inference:
    """Scores batches and hands over each record when the last of its frames is done.

    Args:
        scorer: the model.
        finish: called for each finished record, on the calling thread.
        failed: called with "out_of_memory" or "error" for each run of the model that failed.
        suspects: told what goes to the device, before it does.
    """

    def __init__(
        self,
        scorer: Scorer,
        finish: Callable[[Finished], None],
        failed: Callable[[str], None],
        suspects: Suspects,
    ) -> None:
        self._scorer, self._finish, self._failed, self._suspects = scorer, finish, failed, suspects

    def run(self, slots: Sequence[Slot]) -> None:
        """Score one batch.

        Raises:
            DeviceLost: the device is gone; nothing of this batch is finished.
            OutOfMemory: not even one frame fits.
        """
        free: list[Slot] = []
        for record in _by_record([slot for slot in slots if slot.job.failure is None]):
            job = record[0].job
            match self._suspects.verdict(job):
                case "free":
                    free += record
                case "alone":
                    log.warning(
                        "run alone: it was on the device when the process died", source=str(job.source)
                    )
                    self._score(record)
                case "condemned":
                    detail = "the process died each time this record was on the device, at last alone"
                    self._give_up(job, Refused(Reason.QUARANTINED, "inference", detail))
        self._score(free)

    def _score(self, slots: Sequence[Slot], attempt: int = 1) -> None:
        if not slots:
            return
        try:
            scores = self._run(slots)
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

    def _run(self, slots: Sequence[Slot]) -> NDArray[np.float32]:
        jobs = [record[0].job for record in _by_record(slots)]
        self._suspects.entering(jobs)
        try:
            scores = self._scorer.score([slot.frame for slot in slots])
        except DeviceLost:
            raise  # they stay suspects: a record can be what breaks the device
        except Exception:
            self._suspects.left(jobs)
            raise
        self._suspects.left(jobs)
        return scores

    def _isolate(self, slots: Sequence[Slot], attempt: int, error: Exception) -> None:
        records = list(_by_record(slots))
        if len(records) > 1:
            log.warning("batch split: it failed", records=len(records), error=str(error))
            middle = len(records) // 2
            self._score_parts([list(chain(*records[:middle])), list(chain(*records[middle:]))])
        elif attempt < _ATTEMPTS_ALONE:
            self._score(slots, attempt + 1)
        else:
            detail = f"the model failed {attempt} times on this record alone ({_one_line(error)})"
            self._suspects.cleared(slots[0].job)
            self._give_up(slots[0].job, Refused(Reason.INFERENCE_FAILED, "inference", detail, attempt))

    def _give_up(self, job: RecordJob, refused: Refused) -> None:
        job.failure = refused.detail
        log.error("record given up", source=str(job.source), reason=refused.detail)
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
                self._suspects.cleared(job)
                self._finish(Finished(job.source, scored(job)))


def scored(job: RecordJob) -> Scored:
    """The outcome of a record whose frames, if it has any, are all scored."""
    return Scored(assemble(job.prepared, job.scores), job.prepared.tokens)


def _by_record(slots: Sequence[Slot]) -> Iterator[list[Slot]]:
    for _, group in groupby(slots, key=lambda slot: id(slot.job)):
        yield list(group)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
