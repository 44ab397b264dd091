"""Scoring batches: bisection to the record at fault, halving when memory runs out."""

from __future__ import annotations

import numpy as np
import pytest

from consumer.scoring.batcher import RecordJob
from consumer.scoring.inference import Inference, Suspects, finished
from consumer.types import Finished, Refused, Scored
from schemas import Reason
from tests.support.factories import ConstantScorer, NoSuspects, prepared_record, source
from virnucpro_core.errors import DeviceLost, NotFinite, OutOfMemory
from virnucpro_core.scoring.pending import Slot, slots_of

POISON = 13


class Picky(ConstantScorer):
    """Fails on any batch with a frame of POISON tokens, and on batches over `memory` frames."""

    def __init__(self, memory: int = 1000, lost: bool = False) -> None:
        super().__init__()
        self.memory, self.lost = memory, lost

    def score(self, frames):
        if self.lost:
            raise DeviceLost("gone")
        if len(frames) > self.memory:
            self.batches.append(len(frames))
            raise OutOfMemory("too much")
        if any(frame.tokens == POISON for frame in frames):
            self.batches.append(len(frames))
            raise NotFinite("a score is NaN")
        return super().score(frames)


class Run:
    def __init__(self, scorer, suspects: Suspects | None = None) -> None:
        self.done: list[Finished] = []
        self.failures: list[str] = []
        self.inference = Inference(
            scorer,
            lambda job, refused: self.done.append(finished(job, refused)),
            self.failures.append,
            suspects or NoSuspects(),
        )

    def outcome(self, offset: int):
        (outcome,) = [f.outcome for f in self.done if f.source.offset == offset]
        return outcome


def jobs(*records: tuple[int, ...]) -> list[RecordJob]:
    return [RecordJob(prepared_record(*tokens), source(offset), 0.0) for offset, tokens in enumerate(records)]


def slots(all_jobs) -> list[Slot]:
    return [slot for job in all_jobs for slot in slots_of(job)]


def test_every_record_is_finished_once_with_its_own_scores():
    run = Run(Picky())
    run.inference.run(slots(jobs((10, 20), (30,), (40, 50, 60))))
    assert [f.source.offset for f in run.done] == [0, 1, 2]
    result = run.outcome(2).result
    assert [frame.virus for chunk in result.chunks for frame in chunk.frames] == [
        float(np.float32(tokens / 1000)) for tokens in (40, 50, 60)
    ]


def test_a_record_over_several_batches_finishes_with_the_last():
    run = Run(Picky())
    (job,) = jobs((10, 20))
    run.inference.run([Slot(job, 0)])
    assert run.done == []
    run.inference.run([Slot(job, 1)])
    assert isinstance(run.outcome(0), Scored)


def test_only_the_poison_record_is_given_up():
    run = Run(Picky())
    records = [(10, 10)] * 5 + [(10, POISON)] + [(10, 10)] * 10
    run.inference.run(slots(jobs(*records)))
    assert {f.source.offset for f in run.done} == set(range(16))
    refused = [f for f in run.done if isinstance(f.outcome, Refused)]
    assert [f.source.offset for f in refused] == [5]
    assert refused[0].outcome.reason is Reason.INFERENCE_FAILED
    assert refused[0].outcome.attempts == 2
    assert "a score is NaN" in refused[0].outcome.detail


def test_bisection_is_logarithmic():
    scorer = Picky()
    Run(scorer).inference.run(slots(jobs(*([(10,)] * 63 + [(POISON,)]))))
    assert len(scorer.batches) <= 2 * 6 + 2


def test_later_frames_of_a_record_given_up_are_not_run():
    scorer = Picky()
    run = Run(scorer)
    (job,) = jobs((POISON, 10))
    run.inference.run([Slot(job, 0)])
    ran = len(scorer.batches)
    run.inference.run([Slot(job, 1)])
    assert len(scorer.batches) == ran
    assert len(run.done) == 1


def test_out_of_memory_halves_and_blames_no_record():
    run = Run(Picky(memory=3))
    run.inference.run(slots(jobs(*[(10,)] * 10)))
    assert all(isinstance(f.outcome, Scored) for f in run.done)
    assert len(run.done) == 10
    assert set(run.failures) == {"out_of_memory"}


def test_a_device_without_room_for_one_frame_ends_the_service():
    with pytest.raises(OutOfMemory):
        Run(Picky(memory=0)).inference.run(slots(jobs((10,), (10,))))


def test_a_lost_device_finishes_nothing():
    run = Run(Picky(lost=True))
    with pytest.raises(DeviceLost):
        run.inference.run(slots(jobs((10,))))
    assert run.done == []
