"""The pipeline's threads together: every message submitted comes out once, or is dropped because nobody wants it."""

from __future__ import annotations

import threading
import time

import pytest

from consumer.clock import Deadline
from consumer.ops.metrics import Metrics
from consumer.scoring.inference import Suspects
from consumer.scoring.pipeline import Pipeline, PipelineLimits
from consumer.scoring.preparation import Preparation
from consumer.types import Refused, Scored
from tests.support.factories import ConstantScorer, message, prepared_record, record_message, source
from virnucpro_core.errors import DeviceLost

LIMITS = PipelineLimits(token_budget=100, max_tokens=400, max_wait_s=0.02, prepare_threads=2, max_records=50)


def prepare(record_id, sequence):
    """As many frames of ten tokens as the sequence has letters C."""
    return prepared_record(*[10] * sequence.count("C"), record_id=record_id)


class Gate(ConstantScorer):
    """Waits at its gate, so that a test decides when the device is busy."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.entered = threading.Event(), threading.Event()

    def score(self, frames):
        self.entered.set()
        assert self.open.wait(10)
        return super().score(frames)


@pytest.fixture
def wanted() -> list:
    return [lambda source: True]


@pytest.fixture
def make(wanted):
    made = []

    def build(scorer) -> Pipeline:
        pipeline = Pipeline(
            scorer,
            Preparation(prepare, 10_000, 1000),
            LIMITS,
            lambda s: wanted[0](s),
            Metrics(),
            Suspects(),
        )
        made.append(pipeline)
        return pipeline

    yield build
    for pipeline in made:
        assert pipeline.stop(Deadline.after(10)), "a thread outlived its stop"


def collect(pipeline, count, seconds=10.0):
    done, deadline = [], Deadline.after(seconds)
    while len(done) < count and not deadline.expired:
        done += pipeline.finished(0.05)
    return done


def test_good_bad_and_frameless_records_all_come_out(make):
    pipeline = make(ConstantScorer())
    for offset in range(30):
        pipeline.submit(record_message(offset, "ACCC" if offset % 3 else "ATT", f"r{offset}"))
    pipeline.submit(message(30, value=b"junk"))
    done = {f.source.offset: f.outcome for f in collect(pipeline, 31)}
    assert sorted(done) == list(range(31))
    assert isinstance(done[30], Refused)
    for offset in range(30):
        assert isinstance(done[offset], Scored)
        assert done[offset].result.record_id == f"r{offset}"
        assert len(done[offset].result.chunks[0].frames) == (1 if offset % 3 else 0)


def test_no_batch_is_over_the_budget_and_a_long_record_spreads(make):
    scorer = ConstantScorer()
    pipeline = make(scorer)
    pipeline.submit(record_message(0, "C" * 35))
    (done,) = collect(pipeline, 1)
    assert done.outcome.tokens == 350
    assert sum(scorer.batches) == 35
    assert max(scorer.batches) == 10


def test_what_is_not_wanted_any_more_is_dropped_and_what_runs_is_finished(make, wanted):
    scorer = Gate()
    pipeline = make(scorer)
    pipeline.submit(record_message(0, "C"))
    assert scorer.entered.wait(10)
    for offset in range(1, 20):
        pipeline.submit(record_message(offset, "C" * 5))
    assert pipeline.has_started([source(0).partition])
    wanted[0] = lambda source: False
    pipeline.discard()
    scorer.open.set()
    assert [f.source.offset for f in collect(pipeline, 2, seconds=0.5)] == [0]
    assert not pipeline.has_started([source(0).partition])


def test_a_thread_that_dies_takes_its_error_to_the_owner(make):
    class Lost(ConstantScorer):
        def score(self, frames):
            raise DeviceLost("the device is gone")

    pipeline = make(Lost())
    pipeline.submit(record_message(0, "C"))
    with pytest.raises(DeviceLost, match="gone"):
        collect(pipeline, 1)


def test_the_inbox_is_bounded_by_the_records_admitted(make):
    scorer = Gate()
    pipeline = make(scorer)
    for offset in range(LIMITS.max_records):
        pipeline.submit(record_message(offset, "C" * 10))
    scorer.open.set()
    assert len(collect(pipeline, LIMITS.max_records)) == LIMITS.max_records


def test_stopping_is_prompt_with_work_left(make):
    pipeline = make(ConstantScorer())
    for offset in range(40):
        pipeline.submit(record_message(offset, "C" * 50))
    begun = time.monotonic()
    assert pipeline.stop(Deadline.after(10))
    assert time.monotonic() - begun < 5
