"""Scoring batches: bisection to the record at fault, halving when memory runs out."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from consumer.scoring.batcher import RecordJob
from consumer.scoring.inference import Inference, Suspects, finished
from consumer.types import Finished, Refused, Scored
from schemas import Reason
from tests.support.factories import ConstantScorer, NoSuspects, prepared_record, source
from virnucpro_core.errors import DeviceLost, NotFinite, OutOfMemory
from virnucpro_core.scoring.model import WhenRead
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


class Device(Picky):
    """Computes a batch when it is enqueued, as a GPU does, and fails when that is read; `memory` is for all that is
    enqueued and not read."""

    def __init__(self, memory: int = 1000, lost: bool = False) -> None:
        super().__init__(memory, lost)
        self.enqueued = 0

    def enqueue(self, frames):
        if self.enqueued + len(frames) > self.memory:
            raise OutOfMemory("too much")
        self.enqueued += len(frames)
        rows: Future = Future()
        try:
            rows.set_result(Picky.score(self, frames))
        except (NotFinite, DeviceLost) as error:
            rows.set_exception(error)
        return WhenRead(partial(self._read, rows, len(frames)))

    def score(self, frames):
        return self.enqueue(frames).read()

    def _read(self, rows, count):
        self.enqueued -= count
        return rows.result()


def in_batches(all_slots: list[Slot], sizes: list[int]) -> list[list[Slot]]:
    batches, start = [], 0
    for size in sizes:
        batches.append(all_slots[start : start + size])
        start += size
    return [batch for batch in [*batches, all_slots[start:]] if batch]


def one_ahead(run: Run, batches: list[list[Slot]]) -> None:
    """As the pipeline does: each batch is enqueued before the one ahead of it is read."""
    ahead = None
    for batch in batches:
        running = run.inference.enqueue(batch)
        if ahead is not None:
            run.inference.finish(ahead)
        ahead = running
    if ahead is not None:
        run.inference.finish(ahead)


def told(run: Run) -> list[tuple[int, object]]:
    """Every outcome in a form that can be compared."""
    return sorted(
        (
            done.source.offset,
            done.outcome.reason
            if isinstance(done.outcome, Refused)
            else [frame.virus for chunk in done.outcome.result.chunks for frame in chunk.frames],
        )
        for done in run.done
    )


class TestTheNextBatchIsEnqueuedAhead:
    @given(
        records=st.lists(
            st.lists(st.sampled_from([10, 20, 30, POISON]), min_size=1, max_size=6), min_size=1, max_size=8
        ),
        sizes=st.lists(st.integers(1, 12), max_size=6),
        memory=st.integers(1, 40),
    )
    def test_every_record_has_the_outcome_of_batches_run_one_by_one(self, records, sizes, memory):
        by_turns, ahead = Run(Picky(memory)), Run(Device(memory))
        for batch in in_batches(slots(jobs(*map(tuple, records))), sizes):
            by_turns.inference.run(batch)
        one_ahead(ahead, in_batches(slots(jobs(*map(tuple, records))), sizes))
        assert told(ahead) == told(by_turns)
        assert len(ahead.done) == len(records)
        assert ahead.inference._scorer.enqueued == 0, "all that is enqueued is read"

    def test_a_batch_that_fails_is_split_while_the_one_behind_it_is_on_the_device(self):
        scorer = Device()
        run = Run(scorer)
        first, second = slots(jobs((10,), (POISON,), (10,))), slots(jobs((30,), (40,)))
        one_ahead(run, [first, second])
        assert scorer.batches[:2] == [3, 2]
        assert len(run.done) == 5
        assert scorer.batches.count(2) == 2, "of the second batch nothing is run twice"
        assert [type(done.outcome) for done in run.done[-2:]] == [Scored, Scored]

    def test_one_that_does_not_fit_beside_it_runs_when_the_device_is_free(self):
        scorer = Device(memory=5)
        run = Run(scorer)
        with capture_logs() as lines:
            one_ahead(run, [slots(jobs(*[(10,)] * 4)), slots(jobs(*[(20,)] * 5))])
        assert scorer.batches == [4, 5]
        assert run.failures == [], "whole: it is not halved"
        assert [line["event"] for line in lines] == ["batch_not_enqueued"]

    def test_frames_of_a_record_that_was_given_up_meanwhile_are_left_out(self):
        run = Run(Device())
        given_up, good = jobs((POISON, 10, 10), (20,))
        one_ahead(run, [[Slot(given_up, 0)], [Slot(given_up, 1), Slot(good, 0)], [Slot(given_up, 2)]])
        assert [(done.source.offset, type(done.outcome)) for done in run.done] == [(0, Refused), (1, Scored)]

    def test_a_batch_with_a_suspect_is_not_enqueued(self):
        class Suspicious(NoSuspects):
            def isolation(self, job):
                return "run_alone" if job.source.offset == 1 else "run"

        scorer = Device()
        run = Run(scorer, Suspicious())
        running = run.inference.enqueue(slots(jobs((10,), (20,), (30,))))
        assert running.enqueued is None
        assert scorer.batches == []
        run.inference.finish(running)
        assert scorer.batches == [1, 2]
        assert len(run.done) == 3

    def test_a_device_that_is_lost_finishes_nothing(self):
        run = Run(Device(lost=True))
        running = run.inference.enqueue(slots(jobs((10,))))
        with pytest.raises(DeviceLost):
            run.inference.finish(running)
        assert run.done == []
