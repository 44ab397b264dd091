"""What happens on the thread that owns a device: run a batch, and find the record that breaks it.

Batches that fail are split by `virnucpro_core.scoring.robust`, as in `virnucpro predict`; what the service adds is the
suspects: a record that may have killed an earlier process runs alone, or not at all (`consumer/scoring/quarantine.py`).
Nothing here waits for a disk or assembles an answer; a record that is done goes on to another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from consumer.scoring.batcher import JobSlot, RecordJob
from consumer.types import Finished, Refused, Scored
from schemas import Reason
from virnucpro_core.errors import DeviceLost, OutOfMemory
from virnucpro_core.scoring.model import Scorer
from virnucpro_core.scoring.pending import by_record
from virnucpro_core.scoring.results import assemble
from virnucpro_core.scoring.robust import Failure, score_robustly

log = structlog.get_logger(__name__)

Isolation = Literal["run", "run_alone", "reject"]


class Suspects(Protocol):
    """Knows which records may have killed an earlier process; notified of what goes to the device.

    `announced` is called on the thread that takes batches, everything else on the inference thread. A batch is
    announced before it begins, and only after the one before it has begun.
    """

    def announced(self, jobs: Sequence[RecordJob]) -> None:
        """These records are the next batch. They are on disk when this returns."""

    def begins(self) -> None:
        """The batch announced last is the current one now."""

    def isolation(self, job: RecordJob) -> Isolation:
        """Whether this record may run with others, alone, or not at all."""

    def entering(self, jobs: Sequence[RecordJob]) -> None:
        """These records go to the device now. They are on disk when this returns."""

    def left(self) -> None:
        """Nothing is on the device, and the process lives."""

    def cleared(self, job: RecordJob) -> None:
        """All of this record has run."""


class Inference:
    """Runs batches and hands over each record when the last of its frames is done.

    Args:
        scorer: the model.
        done: called with each record that is finished, and why it is refused or None, on the calling thread.
        failed: called with "out_of_memory" or "error" for each run of the model that failed.
        suspects: notified of what goes to the device, before it does.
    """

    def __init__(
        self,
        scorer: Scorer,
        done: Callable[[RecordJob, Refused | None], None],
        failed: Callable[[str], None],
        suspects: Suspects,
    ) -> None:
        self._scorer, self._done, self._failed, self._suspects = scorer, done, failed, suspects

    def run(self, slots: Sequence[JobSlot]) -> None:
        """Score one batch.

        Raises:
            DeviceLost: the device is gone; nothing of this batch is finished.
            OutOfMemory: not even one frame fits.
        """
        together: list[JobSlot] = []
        for record in by_record(slot for slot in slots if slot.record.failure is None):
            job = record[0].record
            match self._suspects.isolation(job):
                case "run":
                    together += record
                case "run_alone":
                    log.warning("record_run_alone", source=str(job.source))
                    score_robustly(self._run, record, self)
                case "reject":
                    detail = "the process died each time this record was on the device, at last alone"
                    job.failure = detail
                    self._refuse(job, Refused(Reason.QUARANTINED, "inference", detail))
        score_robustly(self._run, together, self)
        self._suspects.left()

    def run_failed(self, failure: Failure, records: int, frames: int) -> None:
        self._failed(failure.kind)
        if failure.kind == "out_of_memory":
            log.warning("batch_halved", frames=frames, reason="the device ran out of memory")
        elif records > 1:
            log.warning("batch_split", records=records, error=failure.reason)

    def computed(self, record: RecordJob) -> None:
        self._suspects.cleared(record)
        self._done(record, None)

    def given_up(self, record: RecordJob, failure: Failure) -> None:
        if (
            failure.kind == "out_of_memory"
        ):  # the device is short of memory for any record: a restart may help
            raise OutOfMemory(failure.reason)
        self._suspects.cleared(record)
        self._refuse(record, Refused(Reason.INFERENCE_FAILED, "inference", failure.detail, failure.attempts))

    def _run(self, slots: Sequence[JobSlot]) -> NDArray[np.float32]:
        jobs = [record[0].record for record in by_record(slots)]
        self._suspects.entering(jobs)
        try:
            scores = self._scorer.score([slot.frame for slot in slots])
        except DeviceLost:
            raise  # they stay suspects: a record can be what breaks the device
        except Exception:
            self._suspects.left()
            raise
        self._suspects.left()
        if scores.shape != (len(slots), 2):
            raise ValueError(f"the model gave scores of shape {scores.shape} for {len(slots)} frames")
        return scores

    def _refuse(self, job: RecordJob, refused: Refused) -> None:
        log.error("record_given_up", source=str(job.source), reason=refused.detail)
        self._done(job, refused)


def finished(job: RecordJob, refused: Refused | None = None) -> Finished:
    """The pipeline's answer for a record that is done: all its frames are scored, unless it is refused.

    Raises:
        NotFinite: a score is NaN or infinite.
    """
    return Finished(job.source, refused or Scored(assemble(job.prepared, job.scores()), job.prepared.tokens))
