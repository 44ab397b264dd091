"""Input that is deleted before it is read is reported; the gaps that transactions leave are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from schemas import SequenceRecord, decode_prediction, encode_record
from tests.support.harness import PARTITIONS, NoopServe, produce, serving, wait_until
from tests.support.kafka import admin
from tests.support.kafka.ending import last_words
from tests.support.kafka.job import Job, record

READ, KEPT_FROM, ALL = 5, 40, 50
LARGE = "ACGTTGCA" * 12_500
SLOW = {"NOOP_TOKENS_PER_S": "1000", "VIRNUCPRO_MAX_INFLIGHT_RECORDS": "5"}
NOT_FETCHED_AHEAD = {
    "VIRNUCPRO_KAFKA_QUEUED_MIN_MESSAGES": "1",
    "VIRNUCPRO_KAFKA_QUEUED_MAX_MESSAGES_KBYTES": "1",
}


def publish(job: Job, first: int, last: int) -> None:
    """The same numbers into each partition, all of them good records, so large that a batch holds ten at most."""
    messages = (
        {"value": encode_record(SequenceRecord(f"n{n}", LARGE)), "partition": number}
        for n in range(first, last)
        for number in range(PARTITIONS)
    )
    produce(job.bootstrap, messages, f"{job.name}.in")


def skips(log: Path) -> list[tuple[int, int, int]]:
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"
    ]
    found = [line for line in lines if line["event"] == "records_skipped"]
    return sorted((line["partition"], line["from"], line["to"]) for line in found)


def answered(job: Job) -> list[int | None]:
    found = [decode_prediction(message.value()).provenance for message in job.read_all("out")]
    return sorted(provenance.source_offset or 0 for provenance in found)


def test_what_is_deleted_while_the_service_is_down_is_reported_at_its_start(job, tmp_path):
    with serving(tmp_path / "before.log", kind=NoopServe, **job.worker(0)) as serve:
        publish(job, 0, READ)
        job.finish(READ * PARTITIONS)
        assert serve.stop() == 0
    publish(job, READ, ALL)
    admin.delete_records(job.bootstrap, f"{job.name}.in", dict.fromkeys(range(PARTITIONS), KEPT_FROM))
    line = last_words(NoopServe(tmp_path / "stop.log", **job.worker(0), VIRNUCPRO_ON_GAP="stop"))
    assert f"of {job.name}.in, offsets {READ} to {KEPT_FROM - 1}" in line
    assert "VIRNUCPRO_ON_GAP=continue" in line
    assert job.committed() == READ * PARTITIONS, "nothing behind it is committed"
    log = tmp_path / "serve.log"
    with serving(log, kind=NoopServe, **job.worker(0)) as serve:
        job.finish(ALL * PARTITIONS)
        assert serve.metric("vnp_records_skipped_total") == (KEPT_FROM - READ) * PARTITIONS
        assert serve.stop() == 0
    assert skips(log) == [(number, READ, KEPT_FROM - 1) for number in range(PARTITIONS)]
    assert answered(job) == sorted([*range(READ), *range(KEPT_FROM, ALL)] * PARTITIONS)


def test_what_is_deleted_under_a_service_that_falls_behind_is_reported(job, tmp_path):
    log = tmp_path / "serve.log"
    with serving(log, kind=NoopServe, **job.worker(0), **SLOW, **NOT_FETCHED_AHEAD) as serve:
        publish(job, 0, ALL)
        wait_until(lambda: job.committed() > 0, "it works")
        admin.delete_records(job.bootstrap, f"{job.name}.in", dict.fromkeys(range(PARTITIONS), KEPT_FROM))
        job.finish(ALL * PARTITIONS)
        skipped = serve.metric("vnp_records_skipped_total")
        assert serve.stop() == 0
    found = skips(log)
    assert found
    assert {last for *_, last in found} == {KEPT_FROM - 1}
    assert skipped == sum(last - first + 1 for _, first, last in found)
    missing = {(number, offset) for number, first, last in found for offset in range(first, last + 1)}
    assert len(answered(job)) == ALL * PARTITIONS - len(missing)


def test_the_gaps_that_transactions_leave_are_no_skips(job, tmp_path):
    producer = Producer({"bootstrap.servers": job.bootstrap, "transactional.id": f"{job.name}.publisher"})
    producer.init_transactions(10)
    log = tmp_path / "serve.log"
    count = 30
    with serving(log, kind=NoopServe, **job.worker(0), VIRNUCPRO_ON_GAP="stop") as serve:
        for n in range(count):
            producer.begin_transaction()
            producer.produce(f"{job.name}.in", record(10 * n), partition=0)
            assert producer.flush(10) == 0, "an aborted message is in the log, too"
            (producer.abort_transaction if n % 3 == 2 else producer.commit_transaction)(10)
        wait_until(lambda: len(job.read_all("out")) == count - count // 3, "all answered")
        assert serve.metric("vnp_records_skipped_total") == 0
        assert serve.stop() == 0
    assert skips(log) == []
