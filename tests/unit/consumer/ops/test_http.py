"""The HTTP port: metrics in Prometheus' format, probes that tell the truth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from consumer.delivery.answers import Answer
from consumer.ops.events import BrokersChanged, Draining, Rebalanced, RnaPrepared, Turned
from consumer.ops.health import STUCK_AFTER_S
from consumer.ops.http import application
from consumer.ops.metrics import Metrics
from consumer.ops.monitor import Monitor
from consumer.types import InFlight
from tests.support.factories import FakeClock, message, refused, scored

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


def test_every_series_exists_from_the_start(metrics, client):
    before = {(s.name, tuple(s.labels.items())) for f in metrics.registry.collect() for s in f.samples}
    metrics.delivered(Answer(message(1), scored(10)))
    metrics.committed("ok")
    metrics.batch_failed("error")
    after = {(s.name, tuple(s.labels.items())) for f in metrics.registry.collect() for s in f.samples}
    assert after == before
    text = client.get("/metrics").text
    assert list(text_string_to_metric_families(text))
    assert "_created" not in text


def test_the_document_lists_every_metric(metrics):
    families = {family.name: family for family in metrics.registry.collect()}
    names = {f"{name}_total" if family.type == "counter" else name for name, family in families.items()}
    assert set(re.findall(r"^\| `(vnp_\w+)`", DOCUMENT.read_text(), re.MULTILINE)) == names
