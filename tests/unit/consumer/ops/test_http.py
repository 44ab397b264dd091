"""The HTTP port: metrics in Prometheus' format, probes that tell the truth."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from consumer.delivery.answers import Answer
from consumer.ops.events import (
    BrokersChanged,
    Draining,
    LagMeasured,
    ModelLoaded,
    ModelLoading,
    PartitionLag,
    Rebalanced,
    RnaPrepared,
    Turned,
)
from consumer.ops.health import STUCK_AFTER_S
from consumer.ops.http import application
from consumer.ops.metrics import Metrics
from consumer.ops.monitor import Monitor
from consumer.scoring.batcher import Batch
from consumer.scoring.model import ServedModel
from consumer.stage_times import StageTimes
from consumer.types import InFlight
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

DOCUMENT = Path(__file__).parents[4] / "docs" / "metrics.md"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def monitor(clock) -> Monitor:
    return Monitor(clock=clock)


@pytest.fixture
def metrics(clock) -> Metrics:
    return Metrics(clock)


@pytest.fixture
def client(metrics, monitor) -> TestClient:
    return TestClient(application(metrics, monitor))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


MODEL = ServedModel(ConstantScorer(), lambda record_id, _: prepared_record(10), INFO, 1000)
TURNED = Turned(0.1, "open", 0.0)
JOINED = Rebalanced("assigned", ())


class Intake:
    """An intake that holds nothing; `is_broken` is the test's."""

    records = bytes = waiting = 0
    assigned: tuple[()] = ()
    limit = None
    is_broken = False
    blocked: frozenset[object] = frozenset()
    queued_tokens = 0
    delayed_records = 0
    queued_bytes: ClassVar = {"inbox": 70, "batcher": 30}


def test_ready_needs_a_turning_loop_a_group_and_a_broker(client, monitor):
    def ready() -> tuple[int, str]:
        response = client.get("/readyz")
        return response.status_code, response.text

    assert ready() == (503, "starting\n")
    monitor.happened(TURNED)
    assert ready() == (503, "joining the consumer group\n")
    monitor.happened(JOINED)
    assert ready() == (200, "ready\n")
    monitor.happened(BrokersChanged(False))
    assert ready() == (503, "no Kafka broker answers\n")
    monitor.happened(BrokersChanged(True))
    assert ready() == (200, "ready\n")
    monitor.happened(Draining(InFlight(0, 0, 0)))
    monitor.happened(JOINED)
    assert ready() == (503, "shutting down\n")


def test_alive_while_the_loop_turns(client, monitor, clock):
    clock.advance(1000)
    assert client.get("/livez").status_code == 200, "loading a model may take its time"
    monitor.happened(TURNED)
    clock.advance(STUCK_AFTER_S - 1)
    assert client.get("/livez").status_code == 200
    monitor.happened(JOINED)
    assert client.get("/readyz").status_code == 200
    clock.advance(2)
    assert client.get("/livez").status_code == 503
    assert client.get("/readyz").text == "the main loop hangs\n"


def test_an_open_breaker_is_not_ready(client, monitor):
    intake = Intake()
    monitor.watch(intake, intake)
    monitor.happened(JOINED)
    monitor.happened(TURNED)
    assert client.get("/readyz").status_code == 200
    intake.is_broken = True
    assert "most records fail" in client.get("/readyz").text


def test_started_once_a_broker_a_model_and_a_turn_are_there(client, monitor):
    def started() -> tuple[int, str]:
        response = client.get("/startupz")
        return response.status_code, response.text

    assert started() == (503, "waiting for a Kafka broker and its topics\n")
    monitor.happened(ModelLoading("nano", "auto"))
    assert started() == (503, "loading the model\n")
    monitor.happened(ModelLoaded(MODEL, 1000))
    assert started() == (503, "the main loop has not turned yet\n")
    monitor.happened(TURNED)
    assert started() == (200, "started\n")
    monitor.happened(BrokersChanged(False))
    assert started() == (200, "started\n"), "what comes later is for the other probes"


def test_verbose_names_each_check_and_why_it_fails(client, monitor, clock):
    monitor.happened(JOINED)
    monitor.happened(TURNED)
    monitor.happened(BrokersChanged(False))
    ready = client.get("/readyz?verbose")
    assert ready.status_code == 503
    checks = ready.json()["checks"]
    assert checks.pop("broker") == {"status": "fail", "reason": "no Kafka broker answers"}
    assert checks
    assert all(check == {"status": "pass"} for check in checks.values())
    live = client.get("/livez?verbose")
    assert (live.status_code, live.json()) == (
        200,
        {"status": "pass", "checks": {"loop": {"status": "pass"}}},
    )
    clock.advance(STUCK_AFTER_S + 1)
    reason = client.get("/livez?verbose").json()["checks"]["loop"]["reason"]
    assert reason == f"the main loop has not turned for {STUCK_AFTER_S + 1:.0f} s"


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/livez", "/readyz", "/startupz"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_every_page_is_read_only(client, path, method):
    assert client.request(method, path).status_code == 405


def test_the_page_may_load_nothing_and_send_nothing_elsewhere(client):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", page.text)


def test_delivered_records_are_counted(metrics):
    metrics.delivered(Answer(message(1, received_at=99.0), scored(10, 20)))
    metrics.delivered(Answer(message(2), refused()))
    assert value(metrics, "vnp_records_total", outcome="predicted") == 1
    assert value(metrics, "vnp_records_total", outcome="dead_lettered") == 1
    assert value(metrics, "vnp_predictions_total", verdict="virus") == 1
    assert value(metrics, "vnp_dead_letters_total", reason="malformed") == 1
    assert (value(metrics, "vnp_chunks_total"), value(metrics, "vnp_frames_total")) == (2, 2)
    assert value(metrics, "vnp_tokens_total") == 30
    assert value(metrics, "vnp_record_seconds_sum") == 1.0


def test_records_that_hold_a_u_are_counted(metrics):
    metrics.happened(RnaPrepared())
    metrics.happened(RnaPrepared())
    assert metrics.registry.get_sample_value("vnp_rna_records_total") == 2


def test_from_the_timestamp_of_a_message_to_its_answer(clock):
    metrics = Metrics(clock, now=lambda: 1_700_000_007.0)
    for timestamp_ms in (1_700_000_000_000, 1_700_000_009_000, None):  # 7 s old, in the future, without one
        metrics.delivered(Answer(message(1, timestamp_ms=timestamp_ms), scored(10)))
    assert value(metrics, "vnp_end_to_end_seconds_count") == 2
    assert value(metrics, "vnp_end_to_end_seconds_sum") == 7


def test_when_offsets_were_committed_last(clock):
    metrics = Metrics(clock, now=lambda: 1_700_000_007.0)
    for outcome in ("error", "hung", "rebalancing"):
        metrics.committed(outcome)
    assert value(metrics, "vnp_last_commit_timestamp_seconds") == 0
    metrics.committed("ok")
    assert value(metrics, "vnp_last_commit_timestamp_seconds") == 1_700_000_007


def test_what_the_model_computes_is_counted_in_tokens_and_operations(metrics):
    info = replace(INFO, flops_per_token={"protein": 1000, "nucleotide": 10})
    metrics.happened(ModelLoaded(replace(MODEL, info=info), 1000))
    metrics.computed(200, 300)
    metrics.computed(1, 0)
    for encoder, tokens, flops in (("protein", 201, 201_000), ("nucleotide", 300, 3000)):
        assert value(metrics, "vnp_model_tokens_total", encoder=encoder) == tokens
        assert value(metrics, "vnp_model_flops_total", encoder=encoder) == flops


def test_every_series_exists_from_the_start(metrics, client):
    before = {(s.name, tuple(s.labels.items())) for f in metrics.registry.collect() for s in f.samples}
    metrics.delivered(Answer(message(1), scored(10)))
    metrics.committed("ok")
    metrics.batch_failed("error")
    metrics.computed(1, 1)
    after = {(s.name, tuple(s.labels.items())) for f in metrics.registry.collect() for s in f.samples}
    assert after == before
    text = client.get("/metrics").text
    assert list(text_string_to_metric_families(text))
    assert "_created" not in text


def test_the_document_lists_every_metric(metrics):
    families = {family.name: family for family in metrics.registry.collect()}
    ours = {name: family for name, family in families.items() if name.startswith("vnp_")}
    names = {f"{name}_total" if family.type == "counter" else name for name, family in ours.items()}
    assert set(re.findall(r"^\| `(vnp_\w+)`", DOCUMENT.read_text(), re.MULTILINE)) == names


def filled(metrics: Metrics, clock: FakeClock) -> Metrics:
    """The metrics of a service at work."""
    times = StageTimes("inference", ("wait", "infer"), clock)
    intake = Intake()
    metrics.watch(intake, intake, lambda: 0, [times])
    metrics.happened(ModelLoaded(MODEL, 1000))
    metrics.happened(LagMeasured({partition(1): PartitionLag(7, 2.5)}))
    metrics.batch_done(Batch((), 200, "full", 400), 0.5)
    clock.advance(3)
    times.enter("infer")
    clock.advance(1)
    return metrics


def test_batches_lag_and_stages_are_measured(metrics, clock):
    filled(metrics, clock)
    assert value(metrics, "vnp_batch_fill_ratio_sum") == 0.4, "of the model with more tokens"
    assert value(metrics, "vnp_consumer_lag_records", topic="sequences", partition="1") == 7
    assert value(metrics, "vnp_consumer_lag_seconds", topic="sequences", partition="1") == 2.5
    assert value(metrics, "vnp_thread_seconds_total", thread="inference", stage="wait") == 3
    assert value(metrics, "vnp_thread_seconds_total", thread="inference", stage="infer") == 1
    assert value(metrics, "vnp_queued_bytes", queue="inbox") == 70


def test_the_collectors_of_the_client_library_are_there(client):
    text = client.get("/metrics").text
    for name in (
        "process_resident_memory_bytes",
        "process_open_fds",
        "python_info",
        "python_gc_collections_total",
    ):
        assert f"\n{name}" in text


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=x.y.z",
        "text/plain; version=x",
        f"text/plain; version={'9' * 5000}",
        "text/plain; version=1.٣; escaping",
    ],
)
def test_a_non_numeric_version_is_no_error(client, accept):
    response = client.get("/metrics", headers={"accept": accept.encode()})
    assert response.status_code == 200
    # Versions of prometheus-client before 0.26 do not look at the version.
    assert response.headers["content-type"].startswith(
        ("text/plain; version=0.0.4", accept.partition(";")[0])
    )


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01".encode(), TRACE),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01".encode(), None),
        (b"00-not-a-trace", None),
        (b"\xff" * 55, None),
        (None, None),
    ],
)
def test_open_metrics_has_the_trace_as_an_exemplar(client, metrics, header, shown):
    metrics.delivered(Answer(message(1, headers=(("traceparent", header),)), scored(10)))
    response = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(response.text)}
    found = [
        sample.exemplar.labels["trace_id"]
        for sample in families["vnp_record_seconds"].samples
        if sample.exemplar is not None
    ]
    assert found == ([] if shown is None else [shown])
    assert TRACE not in client.get("/metrics").text, "the text format has no exemplars"
