"""The snapshot of the running service: what it says at each stage, its rates and its last errors."""

from __future__ import annotations

import dataclasses

import pytest
from confluent_kafka import KafkaError

from consumer.delivery.answers import Answer
from consumer.ops.events import (
    BrokersChanged,
    ConsumerError,
    Drained,
    Draining,
    LagMeasured,
    ModelLoaded,
    ModelLoading,
    PartitionLag,
    Rebalanced,
    Turned,
)
from consumer.ops.health import not_ready
from consumer.ops.monitor import MAX_ERRORS, MAX_ID_LETTERS, MAX_LATEST, Monitor, Rates
from consumer.scoring.batcher import Batch
from consumer.scoring.model import ServedModel
from consumer.types import InFlight, Refused
from schemas import Reason
from tests.support.factories import (
    INFO,
    ConstantScorer,
    FakeClock,
    message,
    partition,
    prepared_record,
    refused,
    scored,
)

NOTHING = InFlight(0, 0, 0)
MODEL = ServedModel(ConstantScorer(), lambda record_id, _: prepared_record(10), INFO, 1000)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def monitor(clock) -> Monitor:
    return Monitor({"VIRNUCPRO_MODEL": "nano"}, clock, now=lambda: 1_700_000_000.0)


def test_the_stages_of_a_life(monitor):
    stages = [monitor.snapshot().stage]
    for event in (
        BrokersChanged(True),
        ModelLoading("nano", "auto"),
        ModelLoaded(MODEL, 1000),
        Turned(0.1, "open", 0.0),
        Rebalanced("assigned", (partition(0),)),
        Rebalanced("lost", (partition(0),)),
        Draining(NOTHING),
        Rebalanced("assigned", ()),
    ):
        monitor.happened(event)
        stages.append(monitor.snapshot().stage)
    assert stages == [
        "starting",
        "starting",
        "loading",
        "joining",
        "joining",
        "serving",
        "serving",
        "draining",
        "draining",
    ]
    assert monitor.snapshot().model is MODEL


def test_ready_is_announced_once(clock):
    announced = []
    monitor = Monitor(clock=clock, on_ready=lambda: announced.append(1))
    monitor.happened(Rebalanced("assigned", ()))
    assert announced == [], "/readyz says starting until the loop has turned"
    monitor.happened(Turned(0.1, "open", 0.0))
    assert not_ready(monitor.snapshot()) is None
    monitor.happened(Turned(0.1, "open", 0.0))
    monitor.happened(Rebalanced("assigned", ()))
    assert announced == [1]


def test_a_snapshot_says_what_intake_and_pipeline_hold_and_does_not_change(monitor):
    class Held:
        records, bytes, waiting, queued_tokens = 3, 400, 1, 50
        assigned = (partition(0), partition(2))
        limit = "tokens"
        is_broken = False
        blocked = frozenset()

    held = Held()
    before = monitor.snapshot()
    assert (before.in_flight, before.assigned, before.limit) == (NOTHING, (), None)
    monitor.watch(held, held)
    snapshot = monitor.snapshot()
    held.records, held.is_broken = 9, True
    assert snapshot.in_flight == InFlight(3, 400, 50)
    assert snapshot.assigned == (partition(0), partition(2))
    assert (snapshot.limit, snapshot.is_broken) == ("tokens", False)
    assert snapshot.settings == {"VIRNUCPRO_MODEL": "nano"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.stage = "serving"
    with pytest.raises(TypeError):
        snapshot.settings["VIRNUCPRO_MODEL"] = "other"


def test_rates_are_means_over_the_last_minute(monitor, clock):
    for _ in range(120):
        monitor.delivered(Answer(message(1), scored(10, 20)))
        monitor.delivered(Answer(message(2), refused()))
        monitor.batch_done(Batch((), 0, "full"), 0.25)
        clock.advance(1)
    rates = monitor.snapshot().rates
    assert rates.records_per_s == pytest.approx(2, rel=0.05)
    assert rates.tokens_per_s == pytest.approx(30, rel=0.05)
    assert rates.device_busy == pytest.approx(0.25, rel=0.05)
    clock.advance(30)
    assert monitor.snapshot().rates.records_per_s == pytest.approx(1, rel=0.05)
    clock.advance(60)
    assert monitor.snapshot().rates == Rates()


def test_in_the_first_minute_rates_are_over_the_time_that_has_passed(monitor, clock):
    for _ in range(10):
        monitor.delivered(Answer(message(1), scored(10)))
        clock.advance(1)
    assert monitor.snapshot().rates.records_per_s == pytest.approx(1)


def test_how_full_batches_were(monitor):
    monitor.happened(ModelLoaded(MODEL, 1000))
    assert monitor.snapshot().rates.batch_fill is None
    monitor.batch_done(Batch((), 1000, "full", 200), 0.1)
    monitor.batch_done(Batch((), 100, "idle", 500), 0.1)
    assert monitor.snapshot().rates.batch_fill == pytest.approx(0.75)


def test_frames_that_were_not_computed(monitor, clock):
    clock.advance(30)
    monitor.frames_reused(60)
    assert monitor.snapshot().rates.frames_reused_per_s == pytest.approx(2.0)
    clock.advance(61)
    assert monitor.snapshot().rates.frames_reused_per_s == 0


def test_answers_since_the_start_and_the_latest_predictions(monitor):
    for number in range(MAX_LATEST + 5):
        monitor.delivered(Answer(message(number, received_at=99.0), scored(10, record_id=f"r{number}")))
    monitor.delivered(Answer(message(99), refused()))
    monitor.delivered(Answer(message(100), scored(10, record_id="x" * 5000)))
    snapshot = monitor.snapshot()
    assert snapshot.totals.verdicts == {"virus": MAX_LATEST + 6, "others": 0, "no_open_frame": 0}
    assert snapshot.totals.dead_letters["malformed"] == 1
    assert len(snapshot.latest) == MAX_LATEST
    assert snapshot.latest[0].record_id == "x" * MAX_ID_LETTERS
    assert (snapshot.latest[1].record_id, snapshot.latest[1].seconds) == (f"r{MAX_LATEST + 4}", 1.0)


def test_the_lag_goes_with_its_partition(monitor):
    lag = {partition(n): PartitionLag(n, float(n)) for n in range(3)}
    monitor.happened(LagMeasured(lag))
    assert monitor.snapshot().lag == lag
    monitor.happened(Rebalanced("revoked", (partition(1),)))
    assert set(monitor.snapshot().lag) == {partition(0), partition(2)}


def test_the_last_errors_are_kept_and_bounded(monitor):
    monitor.happened(ConsumerError(KafkaError(KafkaError._TRANSPORT, "gone")))
    monitor.happened(BrokersChanged(False))
    monitor.batch_failed("out_of_memory")
    monitor.committed("ok")
    monitor.committed("hung")
    monitor.delivered(Answer(message(1), refused()))
    monitor.delivered(Answer(message(2), Refused(Reason.QUARANTINED, "inference", "it kills")))
    monitor.happened(Drained(False, InFlight(7, 1, 1)))
    errors = monitor.snapshot().errors
    assert [error.event for error in errors] == [
        "kafka_consumer_error",
        "kafka_brokers_unreachable",
        "batch_failed",
        "commit_not_ok",
        "quarantined",
        "drain_timed_out",
    ]
    assert errors[0].at == 1_700_000_000.0
    assert "sequences/0/2: it kills" in errors[4].detail
    for number in range(100):
        monitor.batch_failed(str(number))
    errors = monitor.snapshot().errors
    assert [error.detail for error in errors] == [str(number) for number in range(100 - MAX_ERRORS, 100)]
