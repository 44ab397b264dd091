"""The pipeline's threads together: every message submitted comes out once, or is dropped when no longer wanted."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial

import pytest
from structlog.testing import capture_logs

from consumer.clock import Deadline
from consumer.scoring import inbox, inference
from consumer.scoring.delayed import DelayedMessages
from consumer.scoring.pipeline import Pipeline, PipelineLimits
from consumer.scoring.preparation import Preparation
from consumer.scoring.staging import Staging
from consumer.types import Refused, Scored
from schemas.codecs import AvroCodec, DependencyUnavailable
from tests.support.factories import (
    ConstantScorer,
    FakeClock,
    NoSuspects,
    message,
    partition,
    prepared_record,
    record_message,
    source,
)
from virnucpro_core.errors import DeviceLost
from virnucpro_core.scoring.model import WhenRead

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


class Listener:
    """Counts."""

    def __init__(self) -> None:
        self.batches = self.failures = self.delays = 0

    def batch_done(self, batch, seconds):
        self.batches += 1

    def batch_failed(self, kind):
        self.failures += 1

    def computed(self, protein_tokens, nucleotide_tokens):
        pass

    def frames_reused(self, frames):
        pass

    def record_delayed(self):
        self.delays += 1


class Registry(AvroCodec):
    """A codec that needs another service for the records of some offsets, and that service may be down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.asked = 0

    def decode_record(self, value, headers):
        if headers:
            self.asked += 1
            if self.down:
                raise DependencyUnavailable("the registry does not answer")
        return super().decode_record(value, headers)


@pytest.fixture
def codec() -> Registry:
    return Registry()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def wanted() -> list:
    return [lambda source: True]


@pytest.fixture
def make(wanted, codec, listener, monkeypatch):
    monkeypatch.setattr("consumer.scoring.pipeline._LOOK_UP_S", 0.02)  # threads that wait end as soon
    made = []

    def build(scorer, suspects=None, prepare=prepare) -> Pipeline:
        pipeline = Pipeline(
            scorer,
            Preparation(codec, prepare, 1_000_000, 1_000_000),
            LIMITS,
            lambda s: wanted[0](s),
            listener,
            suspects or NoSuspects(),
        )
        made.append(pipeline)
        return pipeline

    yield build
    for pipeline in made:
        assert pipeline.stop(Deadline.after(10)), "a thread outlived its stop"


def until(condition, seconds=10.0):
    deadline = Deadline.after(seconds)
    while not condition():
        assert not deadline.expired
        time.sleep(0.005)


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


class TestPartitionsTakeTurns:
    def test_a_genome_in_one_partition_holds_up_no_other(self, make):
        """The others are prepared, batched and answered while the genome waits."""
        scorer = Gate()
        pipeline = make(scorer)
        pipeline.submit(record_message(0, "C" * 5000))
        assert scorer.entered.wait(10)
        for offset in range(20):
            pipeline.submit(record_message(offset, "CC", number=1))
        scorer.open.set()
        first = collect(pipeline, 20)
        assert {f.source.partition.number for f in first} == {1}
        assert [f.source for f in collect(pipeline, 1)] == [source(0)]

    def test_a_message_that_takes_long_to_prepare_holds_up_no_other(self, make):
        slow = threading.Event()

        def preparing(record_id, sequence):
            if len(sequence) > inbox.LARGE_BYTES:
                assert slow.wait(10)
                sequence = "C"
            return prepare(record_id, sequence)

        pipeline = make(ConstantScorer(), prepare=preparing)
        for number in (0, 2, 3):  # more than there are threads for the others
            pipeline.submit(record_message(0, "A" * (inbox.LARGE_BYTES + 1), number=number))
        for offset in range(10):
            pipeline.submit(record_message(offset, "C", number=1))
        assert {f.source.partition.number for f in collect(pipeline, 10)} == {1}
        slow.set()
        assert len(collect(pipeline, 3)) == 3

    def test_a_backlog_waits_as_raw_messages_and_is_counted_with_its_partition(self, make):
        scorer = Gate()
        pipeline = make(scorer)
        for offset in range(40):
            pipeline.submit(record_message(offset, "C" * 20))
        assert scorer.entered.wait(10)
        until(lambda: pipeline.queued_tokens >= 400)
        time.sleep(0.05)
        assert pipeline.queued_tokens < 2000, "of the 8000 that it all comes to"
        tokens = pipeline.tokens_by_partition()
        assert tokens.keys() == {partition(0)}
        assert pipeline.queued_tokens == tokens[partition(0)]
        scorer.open.set()
        assert len(collect(pipeline, 40)) == 40
        assert pipeline.queued_tokens == 0


def test_stopping_is_prompt_with_work_left(make):
    pipeline = make(ConstantScorer())
    for offset in range(40):
        pipeline.submit(record_message(offset, "C" * 50))
    begun = time.monotonic()
    assert pipeline.stop(Deadline.after(10))
    assert time.monotonic() - begun < 5


def needing_the_registry(offset, sequence="C"):
    return replace(record_message(offset, sequence, f"r{offset}"), headers=(("schema", b"7"),))


class TestADependencyThatIsDown:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr("consumer.scoring.delayed.FIRST_RETRY_S", 0.02)
        monkeypatch.setattr("consumer.scoring.delayed.LONGEST_RETRY_S", 0.05)

    def test_it_delays_the_records_that_need_it_and_no_others(self, make, codec, listener):
        codec.down = True
        pipeline = make(ConstantScorer())
        for offset in range(20):
            pipeline.submit(
                needing_the_registry(offset) if offset % 2 else record_message(offset, "C", f"r{offset}")
            )
        assert sorted(f.source.offset for f in collect(pipeline, 10)) == list(range(0, 20, 2))
        assert collect(pipeline, 1, seconds=0.2) == [], "delayed, and not refused"
        assert pipeline.delayed_records + 1 >= 10
        assert listener.delays >= 10
        codec.down = False
        done = {f.source.offset: f.outcome for f in collect(pipeline, 10)}
        assert sorted(done) == list(range(1, 20, 2))
        assert all(isinstance(outcome, Scored) for outcome in done.values())
        assert pipeline.delayed_records == 0

    def test_an_outage_is_logged_once_and_so_is_its_end(self, make, codec):
        codec.down = True
        with capture_logs() as lines:
            pipeline = make(ConstantScorer())
            for offset in range(5):
                pipeline.submit(needing_the_registry(offset))
            assert collect(pipeline, 1, seconds=0.3) == []
            codec.down = False
            assert len(collect(pipeline, 5)) == 5
        assert [line["event"] for line in lines] == ["dependency_unavailable", "dependency_available"]

    def test_a_record_whose_partition_goes_away_is_not_tried_again(self, make, codec, wanted):
        codec.down = True
        pipeline = make(ConstantScorer())
        pipeline.submit(needing_the_registry(0))
        assert collect(pipeline, 1, seconds=0.1) == []
        assert not pipeline.has_started([source(0).partition])
        wanted[0] = lambda source: False
        pipeline.discard()
        codec.down = False
        assert collect(pipeline, 1, seconds=0.3) == []
        assert pipeline.delayed_records == 0

    def test_it_may_still_be_down_at_the_end(self, make, codec):
        codec.down = True
        pipeline = make(ConstantScorer())
        pipeline.submit(needing_the_registry(0))
        assert collect(pipeline, 1, seconds=0.1) == []
        pipeline.drain()
        assert pipeline.stop(Deadline.after(10))


def test_a_record_that_stays_delayed_is_tried_less_and_less_often():
    clock = FakeClock()
    delayed = DelayedMessages(clock)
    waits = [delayed.add(message(0), tries, "down") for tries in range(1, 10)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert delayed.take_due() is None
    clock.advance(0.5)
    assert delayed.take_due() == (message(0), 1)
    assert delayed.take_due() is None
    assert delayed.due_in(10.0) == 0.5


class TestTheNextBatchIsStaged:
    def test_its_suspects_are_written_while_the_device_computes(self, make):
        announced = threading.Event()

        class Slow(NoSuspects):
            batches = 0

            def announced(self, jobs):
                self.batches += 1
                if self.batches == 2:
                    announced.set()

        scorer = Gate()
        pipeline = make(scorer, Slow())
        pipeline.submit(record_message(0, "C" * 35))
        assert scorer.entered.wait(10)
        assert announced.wait(10), "before the first batch has ended"
        assert scorer.batches == []
        scorer.open.set()
        assert len(collect(pipeline, 1)) == 1

    def test_it_is_taken_late_so_that_a_record_of_another_partition_is_still_in_it(self, make, monkeypatch):
        clock = FakeClock()
        monkeypatch.setattr("consumer.scoring.pipeline.Staging", lambda: Staging(clock))
        announced = []

        class Noting(NoSuspects):
            def announced(self, jobs):
                announced.append({job.source.partition.number for job in jobs})

        scorer = Gate()
        pipeline = make(scorer, Noting())
        pipeline.submit(record_message(0, "C" * 10))
        assert scorer.entered.wait(10)
        time.sleep(0.1)  # a batch takes so long, as far as is known from now on
        scorer.entered.clear()
        scorer.open.set()
        assert len(collect(pipeline, 1)) == 1
        scorer.open.clear()
        pipeline.submit(record_message(1, "C" * 40))
        assert scorer.entered.wait(10)
        until(lambda: pipeline.queued_tokens == 300)
        time.sleep(0.05)  # what was due early would be taken now
        pipeline.submit(record_message(0, "C", number=1))
        until(lambda: pipeline.queued_tokens == 310)
        assert announced == [{0}, {0}]
        clock.advance(1.0)
        until(lambda: len(announced) == 3)
        assert announced[2] == {0, 1}
        scorer.open.set()
        assert len(collect(pipeline, 2)) == 2

    def test_every_batch_is_announced_before_it_is_enqueued_and_begins_before_the_next_is_announced(
        self, make
    ):
        events = []

        class Noting(NoSuspects):
            def announced(self, jobs):
                events.append(("announced", [job.source.offset for job in jobs]))

            def begins(self):
                events.append(("begins", None))

        class Queueing(ConstantScorer):
            def enqueue(self, frames):
                events.append(("enqueued", len(frames)))
                return WhenRead(partial(self.score, frames))

        pipeline = make(Queueing(), Noting())
        for offset in range(40):
            pipeline.submit(record_message(offset, "C" * 7))
        assert len(collect(pipeline, 40)) == 40
        kinds = [kind for kind, _ in events]
        batches = kinds.count("begins")
        assert batches > 20
        before = [kind for kind in kinds if kind != "begins"]
        assert before == ["announced", "enqueued"] * batches
        ahead = 0
        for kind in kinds:
            ahead += (kind == "announced") - (kind == "begins")
            assert ahead in (0, 1), "one batch is enqueued behind the one that runs"

    def test_the_next_batch_is_on_the_device_before_the_one_ahead_is_read(self, make):
        """The scores of the first two batches come only once another one waits behind them."""
        behind = threading.Semaphore(0)

        class Device(ConstantScorer):
            def enqueue(self, frames):
                scores = self.score(frames)
                number = len(self.batches)
                if number > 1:
                    behind.release()
                return WhenRead(partial(self.read, scores, number))

            def read(self, scores, number):
                assert number > 2 or behind.acquire(timeout=10), "nothing was enqueued behind this batch"
                return scores

        scorer = Device()
        pipeline = make(scorer)
        pipeline.submit(record_message(0, "C" * 35))
        (done,) = collect(pipeline, 1)
        assert done.outcome.tokens == 350
        assert scorer.batches == [10, 10, 10, 5]

    def test_a_record_that_is_enqueued_has_started_and_is_finished_and_one_that_waits_is_dropped(
        self, make, wanted
    ):
        enqueued = threading.Event()

        class Noting(NoSuspects):
            def announced(self, jobs):
                if jobs[0].source.offset:
                    enqueued.set()

        scorer = Gate()
        pipeline = make(scorer, Noting())
        pipeline.submit(record_message(0, "C" * 10))
        assert scorer.entered.wait(10)
        assert not pipeline.has_started([source(0, number=1).partition])
        for offset in (1, 2, 3, 4):
            pipeline.submit(record_message(offset, "C" * 9, number=1))
        assert enqueued.wait(10)
        until(lambda: pipeline.queued_tokens == 260)
        assert pipeline.has_started([source(0, number=1).partition])
        wanted[0] = lambda source: source.partition.number == 0
        scorer.open.set()
        done = [f.source.offset for f in collect(pipeline, 4, seconds=0.5)]
        assert done[0] == 0
        assert len(done) == 3, (
            "two records are in the second batch, and of one of them the rest is in the third"
        )
        assert scorer.batches == [10, 10, 8]
        assert not pipeline.has_started([source(0, number=1).partition])

    def test_a_record_that_has_started_is_finished_though_its_rest_waits(self, make, wanted):
        scorer = Gate()
        pipeline = make(scorer)
        pipeline.submit(record_message(0, "C" * 35))
        assert scorer.entered.wait(10)
        wanted[0] = lambda source: False
        pipeline.discard()
        assert pipeline.has_started([source(0).partition])
        scorer.open.set()
        (done,) = collect(pipeline, 1)
        assert done.outcome.tokens == 350
        assert not pipeline.has_started([source(0).partition])


def test_answers_are_not_assembled_on_the_inference_thread(make, monkeypatch):
    threads = set()
    assemble = inference.assemble

    def noting(*arguments):
        threads.add(threading.current_thread().name)
        return assemble(*arguments)

    monkeypatch.setattr(inference, "assemble", noting)
    pipeline = make(ConstantScorer())
    for offset in range(10):
        pipeline.submit(record_message(offset, "CC"))
    assert len(collect(pipeline, 10)) == 10
    assert threads == {"assemble"}
