"""The lag that the service reports of a real broker, with input that was written in transactions."""

from __future__ import annotations

import time

from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from consumer.ops.lag import INTERVAL_S
from tests.support.harness import PARTITIONS, NoopServe, serving, wait_until
from tests.support.kafka.job import Job, record

RECORDS = 60


def publish(job: Job, first: int, last: int) -> None:
    """In one transaction, so that each partition ends with its marker."""
    producer = Producer({"bootstrap.servers": job.bootstrap, "transactional.id": f"{job.name}.publisher"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in range(first, last):
        producer.produce(
            f"{job.name}.in", record(number), str(number).encode(), partition=number % PARTITIONS
        )
    producer.commit_transaction(30)


def lags(serve: NoopServe, what: str) -> list[float]:
    """Of each partition that has one."""
    return [
        sample.value
        for family in text_string_to_metric_families(serve.get("/metrics")[1])
        for sample in family.samples
        if sample.name == f"vnp_consumer_lag_{what}"
    ]


def nothing_behind(serve: NoopServe) -> bool:
    return lags(serve, "records") == [0] * PARTITIONS and lags(serve, "seconds") == [0] * PARTITIONS


def answered(serve: NoopServe) -> float:
    return sum(serve.metric("vnp_records_total", outcome=each) for each in ("predicted", "dead_lettered"))


def test_markers_at_the_end_are_not_behind_after_work_nor_after_a_restart(job, tmp_path):
    publish(job, 0, RECORDS)
    with serving(tmp_path / "0.log", kind=NoopServe, **job.worker(0)) as serve:
        wait_until(lambda: answered(serve) == RECORDS, "all answered")
        time.sleep(2 * INTERVAL_S)  # so that the figures are of a time after that
        wait_until(lambda: nothing_behind(serve), "nothing behind")
        assert serve.stop() == 0
    with serving(tmp_path / "1.log", kind=NoopServe, **job.worker(0)) as serve:
        wait_until(lambda: nothing_behind(serve), "nothing behind with nothing read")
        assert serve.metric("vnp_records_consumed_total") == 0
        publish(job, RECORDS, 2 * RECORDS)
        wait_until(lambda: answered(serve) == RECORDS, "all answered")
        time.sleep(2 * INTERVAL_S)
        wait_until(lambda: nothing_behind(serve), "nothing behind again")
    job.check(2 * RECORDS)


def test_messages_that_are_not_answered_are_behind(job, tmp_path):
    job.publish(0, RECORDS)
    slow = {"NOOP_TOKENS_PER_S": "1", "VIRNUCPRO_DRAIN_TIMEOUT_S": "0"}
    with serving(tmp_path / "0.log", kind=NoopServe, **job.worker(0), **slow) as serve:
        wait_until(lambda: lags(serve, "records") != [] and sum(lags(serve, "records")) == RECORDS, "behind")
        wait_until(lambda: min(lags(serve, "seconds")) > 2, "it grows")
