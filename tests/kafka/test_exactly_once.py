"""Exactly once on a real Kafka: the service as processes, killed and joined, read by a read_committed reader."""

from __future__ import annotations

import signal
import time

from tests.support.harness import NoopServe, Serve, serving, virnucpro, wait_until

RECORDS = 300
FEW = 100  # for the bundled model
SLOW = {"NOOP_TOKENS_PER_S": "8000", "VIRNUCPRO_TOKEN_BUDGET": "1000"}  # eighty records a second


def in_mid_flight(serve: Serve) -> bool:
    return serve.metric("vnp_records_total", outcome="predicted") >= 20


def test_it_is_the_default_on_a_real_broker(job):
    done = virnucpro("serve", "--print-config", **job.variables)
    assert '"VIRNUCPRO_DELIVERY": "exactly_once"' in done.stdout.decode()


def test_every_record_once_and_a_drained_stop_repeats_nothing(job, tmp_path):
    with serving(tmp_path / "a.log", **job.worker(0), VIRNUCPRO_MAX_INFLIGHT_RECORDS="40") as serve:
        job.publish(0, FEW)
        wait_until(lambda: in_mid_flight(serve), "some predictions")
        assert serve.stop(signal.SIGTERM) == 0
    with serving(tmp_path / "b.log", **job.worker(0)):
        job.finish(FEW)
    job.check(FEW)


def test_sigkill_repeats_nothing_and_loses_nothing(job, tmp_path):
    for attempt in range(3):
        with serving(tmp_path / f"{attempt}.log", kind=NoopServe, **SLOW, **job.worker(0)) as serve:
            job.publish(attempt * 100, attempt * 100 + 100)
            wait_until(lambda serve=serve: in_mid_flight(serve), "some predictions")
            assert serve.stop(signal.SIGKILL) == -signal.SIGKILL
    with serving(tmp_path / "last.log", kind=NoopServe, **SLOW, **job.worker(0)):
        job.finish(300)
    job.check(300)


def test_members_that_come_go_and_die_repeat_nothing(job, tmp_path):
    with serving(tmp_path / "0.log", kind=NoopServe, **SLOW, **job.worker(0)) as first:
        job.publish(0, 150)
        wait_until(lambda: in_mid_flight(first), "some predictions")
        with serving(tmp_path / "1.log", kind=NoopServe, **SLOW, **job.worker(1)) as second:
            wait_until(lambda: second.metric("vnp_assigned_partitions") > 0, "partitions taken over")
            job.publish(150, RECORDS)
            time.sleep(0.5)
            assert second.stop(signal.SIGKILL) == -signal.SIGKILL
            job.finish(RECORDS)
    job.check(RECORDS)


def test_a_second_process_of_the_same_instance_fences_the_first(job, tmp_path):
    with serving(tmp_path / "0.log", kind=NoopServe, **SLOW, **job.worker(0)) as first:
        job.publish(0, 50)
        job.finish(50)
        with serving(tmp_path / "1.log", kind=NoopServe, **SLOW, **job.worker(0)):
            job.publish(50, RECORDS)
            assert first.process.wait(60) == 4, "its own exit code: the Kafka client is fenced"
            assert "VIRNUCPRO_INSTANCE_ID" in (tmp_path / "0.log").read_text()
            job.finish(RECORDS)
    job.check(RECORDS)


class PlainServe(NoopServe):
    """As a person starts it: without a port, and without an instance id."""

    command = ("env", "-u", "VIRNUCPRO_HTTP_PORT", "-u", "VIRNUCPRO_INSTANCE_ID", *NoopServe.command)


def test_two_processes_of_one_group_on_one_machine_need_no_setting_of_their_own(job, tmp_path):
    with serving(tmp_path / "0.log", kind=PlainServe, **SLOW, **job.variables) as first:
        job.publish(0, 100)
        wait_until(lambda: in_mid_flight(first), "some predictions")
        with serving(tmp_path / "1.log", kind=PlainServe, **SLOW, **job.variables) as second:
            assert first.http != second.http
            wait_until(lambda: second.metric("vnp_assigned_partitions") > 0, "partitions shared")
            job.publish(100, RECORDS)
            job.finish(RECORDS)
            assert second.metric("vnp_predictions_total") > 0
            assert (first.stop(), second.stop()) == (0, 0)
    job.check(RECORDS)
