"""A broker that answers late: what the service holds stays bounded, its loop goes on, and every answer comes once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.harness import NoopServe, serving, wait_until
from tests.support.kafka.job import Job
from tests.support.kafka.kraft import KraftBroker

RECORDS, LIMIT = 400, 40
SILENT_S, AWAKE_S = 0.3, 0.1


@contextmanager
def stuttering(broker: KraftBroker) -> Iterator[None]:
    """Within the block the broker is silent for three quarters of the time."""
    over = threading.Event()

    def stutter() -> None:
        while not over.is_set():
            broker.freeze()
            over.wait(SILENT_S)
            broker.thaw()
            over.wait(AWAKE_S)

    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        broker.thaw()


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_what_is_in_flight_stays_bounded_and_nothing_is_lost(own_broker, tmp_path, guarantee):
    job = Job.create(own_broker)
    job.publish(0, RECORDS)
    limits = {"VIRNUCPRO_MAX_INFLIGHT_RECORDS": str(LIMIT), "VIRNUCPRO_DELIVERY": guarantee}
    most: list[float] = []
    with serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0), **limits) as serve:
        with stuttering(own_broker):

            def all_answered() -> bool:
                most.append(serve.metric("vnp_inflight_records"))
                assert serve.get("/livez")[0] == 200, "slow is not stuck"
                outcomes = ("predicted", "dead_lettered")
                return sum(serve.metric("vnp_records_total", outcome=how) for how in outcomes) == RECORDS

            wait_until(all_answered, "all answered", 120)
        assert 0 < max(most) <= LIMIT
        assert serve.metric("vnp_backpressure_seconds_total", level="hold") > 0
        assert serve.stop() == 0
    job.check(RECORDS)
