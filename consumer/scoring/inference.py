"""A batch on its way through the device, and how the record that breaks it is found.

The next batch is *enqueued* while the device computes the one before it, and a batch is *read* when the device has it.
Nearly every batch goes this way. What goes wrong is run at once, with nothing enqueued ahead: a batch that fails is
split by `virnucpro_core.scoring.robust`, as in `virnucpro predict`, after the batch behind it has been read; a batch
that cannot be enqueued (no memory beside the one that runs) is run when the device is free; and so is a batch with
suspects: a record that may have killed an earlier process runs alone, or not at all (`consumer/scoring/quarantine.py`).
Nothing here assembles an answer; a record that is done goes on to another thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from consumer.scoring.batcher import JobSlot, RecordJob
from consumer.types import Finished, Refused, Scored
from schemas import Reason
from virnucpro_core.errors import DeviceLost, OutOfMemory
from virnucpro_core.scoring.model import Enqueued, Scorer, WhenRead, queueing
from virnucpro_core.scoring.pending import by_record
from virnucpro_core.scoring.results import assemble
from virnucpro_core.scoring.robust import FAILURES, Failure, RunBatch, score_robustly
from virnucpro_core.wording import one_line

log = structlog.get_logger(__name__)

Isolation = Literal["run", "run_alone", "reject"]


class Suspects(Protocol):
    """Knows which records may have killed an earlier process; notified of what goes to the device.

    `announced` is called on the thread that takes batches, `isolation` there too, everything else on the inference
    thread. A batch is announced before it is enqueued, and only after the one before it has begun: two at most are on
    the device, and both are on disk.
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


@dataclass(slots=True, eq=False)
class Running:
    """A batch that was taken, and what to read its scores from; None if it waits until the device is free."""

    slots: Sequence[JobSlot]
    enqueued: Enqueued | None = None

    @property
    def tokens(self) -> int:
        return sum(slot.frame.tokens for slot in self.slots)


class Inference:
    """Runs batches and hands over each record when the last of its frames is done.

    `enqueue` is called on the thread that takes batches, everything else on the inference thread.

    Args:
        scorer: the model.
        done: called with each record that is finished, and why it is refused or None, on the inference thread.
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
        self._queue = queueing(scorer)
        self._behind: Running | None = None  # the batch enqueued last, until its turn comes
        self._free = threading.Lock()  # held while something is enqueued, or run at once

    def enqueue(self, slots: Sequence[JobSlot]) -> Running:
        """Put a batch, which was announced, behind the one on the device.

        Raises:
            DeviceLost: the device is gone; this batch and the one before it stay suspects.
        """
        if any(self._suspects.isolation(record[0].record) != "run" for record in by_record(slots)):
            return Running(slots)
        running = Running(slots)
        try:
            with self._free:
                running.enqueued = self._queue.enqueue([slot.frame for slot in slots])
                self._behind = running
        except DeviceLost:
            raise
        except FAILURES as error:
            log.warning("batch_not_enqueued", frames=len(slots), error=one_line(error, 300))
        return running

    def finish(self, running: Running) -> None:
        """Read a batch that was enqueued; run one that was not, or that failed. Raises as `run` does."""
        with self._free:
            if self._behind is running:
                self._behind = None
        if all(slot.record.failure is not None for slot in running.slots):
            _await(running)  # it is on the device, though its scores are not wanted
        elif running.enqueued is not None:
            score_robustly(self._reading(running, running.enqueued), running.slots, self)
        else:
            self.run(running.slots)
        self._suspects.left()

    def run(self, slots: Sequence[JobSlot]) -> None:
        """Score a batch with nothing enqueued ahead.

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

    def _reading(self, running: Running, enqueued: Enqueued) -> RunBatch[RecordJob]:
        """The first run of a batch reads what was enqueued; what is run again is run at once."""
        unread = [enqueued]

        def run(slots: Sequence[JobSlot]) -> NDArray[np.float32]:
            if not unread:
                return self._run(slots)
            scores = self._computed(unread.pop().read, running.slots)
            # A record may have been given up, for frames in an earlier batch, while this one was on the device.
            return scores[[slot.record.failure is None for slot in running.slots]]

        return run

    def _run(self, slots: Sequence[JobSlot]) -> NDArray[np.float32]:
        with self._free:
            if self._behind is not None:
                _await(self._behind)  # what runs now has the memory alone
                self._behind = None
            self._suspects.entering([record[0].record for record in by_record(slots)])
            return self._computed(lambda: self._scorer.score([slot.frame for slot in slots]), slots)

    def _computed(
        self, compute: Callable[[], NDArray[np.float32]], slots: Sequence[JobSlot]
    ) -> NDArray[np.float32]:
        """The scores of frames that are on disk as suspects."""
        try:
            scores = compute()
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


def _await(running: Running) -> None:
    """Wait for a batch on the device, and keep its scores until its turn. One that failed is run in its turn.

    Raises:
        DeviceLost: the device is gone.
    """
    if running.enqueued is None:
        return
    try:
        scores = running.enqueued.read()
    except DeviceLost:
        raise
    except FAILURES:
        running.enqueued = None  # its failure is reported when it is run
    else:
        running.enqueued = WhenRead(lambda: scores)


def finished(job: RecordJob, refused: Refused | None = None) -> Finished:
    """The pipeline's answer for a record that is done: all its frames are scored, unless it is refused.

    Raises:
        NotFinite: a score is NaN or infinite.
    """
    return Finished(job.source, refused or Scored(assemble(job.prepared, job.scores()), job.prepared.tokens))
