"""Reports reach every listener, and the log has one stable line for each event that is worth one."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from consumer.delivery.answers import Answer
from consumer.ops.events import (
    BrokersChanged,
    ConsumerError,
    Drained,
    Draining,
    MessageRead,
    ModelLoaded,
    ModelLoading,
    Paused,
    Rebalanced,
    RecordsSkipped,
    ResultStale,
    Resumed,
    TopicRecreated,
    Turned,
)
from consumer.ops.listeners import Listener, Listeners
from consumer.ops.log_listener import LogListener
from consumer.scoring.batcher import Batch
from consumer.scoring.model import ServedModel
from consumer.types import InFlight
from tests.support.factories import (
    INFO,
    ConstantScorer,
    message,
    partition,
    prepared_record,
    scored,
    source,
)
from virnucpro_core.scoring.model import CudaGraphs

HELD = InFlight(3, 400, 50)
FIELDS = {"records": 3, "bytes": 400, "tokens": 50}
MODEL = ServedModel(
    ConstantScorer(),
    lambda record_id, _: prepared_record(10),
    replace(INFO, refusals={"varlen": "needs a GPU"}),
    1000,
)


class Recorder:
    """Notes its reports."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def happened(self, event) -> None:
        self.heard.append(("happened", event))

    def batch_done(self, batch, seconds) -> None:
        self.heard.append(("batch_done", batch, seconds))

    def computed(self, protein_tokens, nucleotide_tokens) -> None:
        self.heard.append(("computed", protein_tokens, nucleotide_tokens))

    def frames_reused(self, frames) -> None:
        self.heard.append(("frames_reused", frames))

    def record_delayed(self) -> None:
        self.heard.append(("record_delayed",))

    def batch_failed(self, kind) -> None:
        self.heard.append(("batch_failed", kind))

    def delivered(self, entry) -> None:
        self.heard.append(("delivered", entry))

    def committed(self, outcome) -> None:
        self.heard.append(("committed", outcome))


def test_every_report_reaches_every_listener():
    first, second = Recorder(), Recorder()
    listeners = Listeners(first, second)
    batch, entry, event = Batch((), 0, "full"), Answer(message(1), scored(10)), ResultStale(source(1))
    listeners.happened(event)
    listeners.batch_done(batch, 0.5)
    listeners.batch_failed("error")
    listeners.computed(40, 20)
    listeners.frames_reused(3)
    listeners.record_delayed()
    listeners.delivered(entry)
    listeners.committed("ok")
    assert first.heard == second.heard
    assert first.heard == [
        ("happened", event),
        ("batch_done", batch, 0.5),
        ("batch_failed", "error"),
        ("computed", 40, 20),
        ("frames_reused", 3),
        ("record_delayed",),
        ("delivered", entry),
        ("committed", "ok"),
    ]
    reports = {name for name, _ in inspect.getmembers(Listener, inspect.isfunction) if name[0] != "_"}
    assert reports == {name for name, *_ in first.heard}, "a report that no test sends"


@pytest.mark.parametrize(
    ("event", "level", "line"),
    [
        (ModelLoading("nano", "auto"), "info", {"event": "model_loading", "model": "nano", "device": "auto"}),
        (BrokersChanged(False), "warning", {"event": "kafka_brokers_unreachable"}),
        (BrokersChanged(True), "info", {"event": "kafka_brokers_reachable"}),
        (
            ConsumerError(KafkaError(KafkaError._TRANSPORT, "gone")),
            "warning",
            {"event": "kafka_consumer_error", "error": "gone", "code": "_TRANSPORT"},
        ),
        (
            Rebalanced("assigned", (partition(0), partition(3))),
            "info",
            {"event": "partitions_assigned", "partitions": [0, 3]},
        ),
        (Rebalanced("revoked", ()), "info", {"event": "partitions_revoked", "partitions": []}),
        (Rebalanced("lost", ()), "info", {"event": "partitions_lost", "partitions": []}),
        (
            RecordsSkipped(partition(2), 40, 900),
            "warning",
            {"event": "records_skipped", "partition": 2, "from": 40, "to": 899},
        ),
        (
            TopicRecreated("sequences", 3),
            "warning",
            {"event": "topic_recreated", "topic": "sequences", "dropped": 3},
        ),
        (Paused("tokens", HELD), "info", {"event": "paused", "reason": "tokens"} | FIELDS),
        (Paused("breaker", HELD), "info", {"event": "paused", "reason": "breaker"} | FIELDS),
        (Resumed(HELD), "info", {"event": "resumed"} | FIELDS),
        (Draining(HELD), "info", {"event": "draining"} | FIELDS),
        (Drained(False, HELD), "warning", {"event": "drain_timed_out"} | FIELDS),
    ],
)
def test_the_log_has_one_line_for_an_event(event, level, line):
    with capture_logs() as lines:
        LogListener().happened(event)
    assert lines == [line | {"log_level": level}]


@pytest.mark.parametrize(
    "event",
    [
        Turned(0.1, "open", 0.0),
        MessageRead(message(1)),
        ResultStale(source(1)),
        Drained(True, InFlight(0, 0, 0)),
    ],
)
def test_what_comes_all_the_time_or_is_as_it_should_be_has_no_line(event):
    with capture_logs() as lines:
        LogListener().happened(event)
    assert lines == []


def test_the_log_says_what_computes_and_what_cannot():
    with capture_logs() as lines:
        LogListener().happened(ModelLoaded(MODEL, 1000))
    refused, off, loaded = lines
    assert (refused["event"], refused["backend"]) == ("attention_backend_refused", "varlen")
    assert (off["event"], off["log_level"]) == ("self_test_off", "warning")
    assert (loaded["event"], loaded["model"], loaded["token_budget"]) == ("model_loaded", "nano", 1000)


def test_the_log_says_which_batches_are_launched_in_one_call():
    graphs = CudaGraphs(esm2=(256, 512), dnabert_s=(), seconds=1.234)
    with capture_logs() as lines:
        LogListener().happened(ModelLoaded(replace(MODEL, info=replace(MODEL.info, graphs=graphs)), 1000))
    assert lines[-1] == {
        "event": "cuda_graphs_recorded",
        "log_level": "info",
        "esm2": [256, 512],
        "dnabert_s": [],
        "seconds": 1.2,
    }
    assert str(graphs) == "ESM-2 up to 512 tokens, 2 in 1.2 s"


@pytest.mark.parametrize("each", [True, False])
def test_failures_have_a_line_and_single_batches_and_records_where_each_is_asked_for(each):
    listener = LogListener(each)
    with capture_logs() as lines:
        listener.batch_done(Batch((), 0, "full"), 0.5)
        listener.delivered(Answer(message(1), scored(10)))
        listener.committed("ok")
        listener.batch_failed("out_of_memory")
        listener.committed("hung")
    single = [("batch_done", "debug"), ("record_answered", "debug")]
    failures = [("batch_failed", "warning"), ("commit_not_ok", "warning")]
    assert [(line["event"], line["log_level"]) for line in lines] == (single if each else []) + failures
