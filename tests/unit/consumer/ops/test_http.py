"""The HTTP port: metrics in Prometheus' format, probes that tell the truth."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from consumer.errors import ServiceError
from consumer.ledger import Entry
from consumer.ops.health import STUCK_AFTER_S, Health
from consumer.ops.http import HttpServer, application
from consumer.ops.metrics import Metrics
from tests.support.factories import FakeClock, message, refused, scored

DOCUMENT = Path(__file__).parents[4] / "docs" / "metrics.md"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def health(clock) -> Health:
    return Health(clock)


@pytest.fixture
def metrics(clock) -> Metrics:
    return Metrics(clock)


@pytest.fixture
def client(metrics, health) -> TestClient:
    return TestClient(application(metrics, health))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_ready_needs_a_turning_loop_a_group_and_a_broker(client, health):
    assert client.get("/readyz").text == "starting\n"
    health.turned()
    assert client.get("/readyz").text == "joining the consumer group\n"
    health.joined()
    assert client.get("/readyz").status_code == 200
    health.brokers(False)
    assert (client.get("/readyz").status_code, client.get("/readyz").text) == (
        503,
        "no Kafka broker answers\n",
    )
    health.brokers(True)
    assert client.get("/readyz").status_code == 200
    health.stopping()
    assert client.get("/readyz").text == "shutting down\n"


def test_alive_while_the_loop_turns(client, health, clock):
    clock.advance(1000)
    assert client.get("/livez").status_code == 200, "loading a model may take its time"
    health.turned()
    clock.advance(STUCK_AFTER_S - 1)
    assert client.get("/livez").status_code == 200
    health.joined()
    assert client.get("/readyz").status_code == 200
    clock.advance(2)
    assert client.get("/livez").status_code == 503
    assert client.get("/readyz").text == "the main loop hangs\n"
    health.turned()
    health.breaker(True)
    assert "most records are refused" in client.get("/readyz").text


def test_ready_is_announced_once(clock):
    told = []
    health = Health(clock, on_ready=lambda: told.append(1))
    health.joined()
    health.joined()
    assert told == [1]


def test_delivered_records_are_counted(metrics):
    metrics.delivered(Entry(message(1, received_at=99.0), scored(10, 20)))
    metrics.delivered(Entry(message(2), refused()))
    assert value(metrics, "vnp_records_total", outcome="predicted") == 1
    assert value(metrics, "vnp_records_total", outcome="dead_lettered") == 1
    assert value(metrics, "vnp_predictions_total", verdict="virus") == 1
    assert value(metrics, "vnp_dead_letters_total", reason="malformed") == 1
    assert (value(metrics, "vnp_chunks_total"), value(metrics, "vnp_frames_total")) == (2, 2)
    assert value(metrics, "vnp_tokens_total") == 30
    assert value(metrics, "vnp_record_seconds_sum") == 1.0


def test_every_series_exists_from_the_start(metrics, client):
    before = {(s.name, tuple(s.labels.items())) for f in metrics.registry.collect() for s in f.samples}
    metrics.delivered(Entry(message(1), scored(10)))
    metrics.committed("ok")
    metrics.batch_failed("error")
    after = {(s.name, tuple(s.labels.items())) for f in metrics.registry.collect() for s in f.samples}
    assert after == before
    assert list(text_string_to_metric_families(client.get("/metrics").text))


def test_the_document_lists_every_metric(metrics):
    families = {family.name: family for family in metrics.registry.collect()}
    names = {f"{name}_total" if family.type == "counter" else name for name, family in families.items()}
    assert set(re.findall(r"^\| `(vnp_\w+)`", DOCUMENT.read_text(), re.MULTILINE)) == names


def test_a_real_port_serves_and_closes(metrics, health):
    with HttpServer("127.0.0.1", 0, metrics, health) as server:
        with urllib.request.urlopen(f"{server.url}/livez", timeout=10) as response:
            assert response.read() == b"alive\n"
        port = int(server.url.rsplit(":", 1)[1])
        with pytest.raises(ServiceError, match=rf"port {port} .*VIRNUCPRO_HTTP_PORT"):
            HttpServer("127.0.0.1", port, metrics, health)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
