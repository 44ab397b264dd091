"""The broker goes away while the service runs, and comes back: nothing is lost, and nothing comes twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from consumer.errors import ExitCode
from tests.support.harness import NoopServe, Serve, serving, wait_until
from tests.support.kafka.job import Job
from tests.support.kafka.kraft import KraftBroker

RECORDS = 400
HALF = RECORDS // 2
BUSY = {
    "NOOP_TOKENS_PER_S": "8000",  # 80 records a second
    "VIRNUCPRO_TOKEN_BUDGET": "500",
    "VIRNUCPRO_COMMIT_INTERVAL_MS": "0",  # transactions follow each other: whenever the broker dies it is in one
}


@pytest.fixture
def job(own_broker: KraftBroker) -> Job:
    """Topics and a group of one test's own, on a broker that it may take away."""
    return Job.create(own_broker)


@contextmanager
def without(broker: KraftBroker, end: Callable[[], None]) -> Iterator[None]:
    """The broker is gone within the block, and back behind it."""
    end()
    try:
        yield
    finally:
        broker.start()


def answered(serve: Serve) -> float:
    return sum(serve.metric("vnp_records_total", outcome=how) for how in ("predicted", "dead_lettered"))


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_stopped_and_started_again(own_broker, job, tmp_path, guarantee):
    variables = job.worker(0) | {"VIRNUCPRO_DELIVERY": guarantee}
    with serving(tmp_path / "serve.log", kind=NoopServe, **variables) as serve:
        job.publish(0, HALF)
        job.finish(HALF)
        assert (serve.is_ready(), serve.metric("vnp_broker_up")) == (True, 1)
        with without(own_broker, own_broker.stop):
            wait_until(lambda: not serve.is_ready(), "it is not ready")
            assert serve.get("/readyz") == (503, "no Kafka broker answers\n")
            assert serve.get("/livez")[0] == 200, "no reason to restart it"
            assert serve.metric("vnp_broker_up") == 0
        wait_until(serve.is_ready, "it is ready again")
        assert serve.metric("vnp_broker_up") == 1
        job.publish(HALF, RECORDS)
        wait_until(lambda: serve.process.poll() is not None or job.committed() == RECORDS, "done, or gone")
        assert serve.stop() == 0
    job.check(RECORDS)


def test_killed_in_the_middle_of_transactions(own_broker, job, tmp_path):
    variables = job.worker(0) | BUSY
    job.publish(0, RECORDS)
    with serving(tmp_path / "serve.log", kind=NoopServe, **variables) as serve:
        wait_until(lambda: answered(serve) >= RECORDS / 10, "it is at work")
        with without(own_broker, own_broker.kill):
            assert 0 < answered(serve) < RECORDS, "it was at work"
            wait_until(lambda: serve.metric("vnp_broker_up") == 0, "it has noticed")
            assert serve.process.poll() is None
        wait_until(lambda: serve.process.poll() is not None or job.committed() == RECORDS, "done, or gone")
        wait_until(lambda: serve.process.poll() is not None or serve.is_ready(), "it is ready again, or gone")
        if (code := serve.process.poll()) is None:
            assert serve.stop() == 0
        else:  # the outage outlasted the ten seconds of its transaction: a supervisor starts it again
            assert code == ExitCode.KAFKA_FATAL, serve.log.read_text()
    with serving(tmp_path / "next.log", kind=NoopServe, **variables):
        job.finish(RECORDS)
    job.check(RECORDS)
