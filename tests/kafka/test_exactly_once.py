"""Exactly once on a real Kafka: the service as processes, killed and joined, read by a read_committed reader."""

from __future__ import annotations

import signal
import time
import uuid
from collections import Counter
from dataclasses import dataclass

import pytest

from schemas import SequenceRecord, decode_dead_letter, decode_prediction, encode_record
from tests.integration.harness import (
    PARTITIONS,
    Serve,
    committed,
    produce,
    read,
    serving,
    virnucpro,
    wait_until,
)
from tests.kafka.kraft import KraftBroker

RECORDS = 300
UNIT = "ATGGCTAAAGGTCTGCCATTCGACGGTACCGAATGG"


@dataclass(frozen=True)
class Job:
    """Topics and a group of one test's own, and the settings that point a service at them."""

    bootstrap: str
    name: str

    @property
    def variables(self) -> dict[str, str]:
        return {
            "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "VIRNUCPRO_INPUT_TOPIC": f"{self.name}.in",
            "VIRNUCPRO_OUTPUT_TOPIC": f"{self.name}.out",
            "VIRNUCPRO_DLQ_TOPIC": f"{self.name}.dlq",
            "VIRNUCPRO_GROUP_ID": self.name,
            "VIRNUCPRO_KAFKA_SESSION_TIMEOUT_MS": "6000",
        }

    def worker(self, number: int) -> dict[str, str]:
        return self.variables | {"VIRNUCPRO_INSTANCE_ID": f"worker-{number}"}

    def publish(self, first: int, last: int) -> None:
        messages = ({"key": str(n).encode(), "value": record(n)} for n in range(first, last))
        produce(self.bootstrap, messages, f"{self.name}.in")

    def finish(self, count: int) -> None:
        """Wait until every input offset is committed."""
        wait_until(
            lambda: committed(self.bootstrap, self.name, f"{self.name}.in") == count, "all committed", 90
        )

    def check(self, count: int) -> None:
        """Every good record predicted exactly once, every bad one dead-lettered exactly once, all in order."""
        predicted = read(self.bootstrap, f"{self.name}.out", lambda found: False, seconds=4)
        dead = read(self.bootstrap, f"{self.name}.dlq", lambda found: False, seconds=4)
        ids = Counter(decode_prediction(m.value()).id for m in predicted)
        values = Counter(decode_dead_letter(m.value()).value for m in dead)
        assert ids == Counter({f"r{n}": 1 for n in range(count) if n % 10 != 9})
        assert values == Counter({record(n): 1 for n in range(count) if n % 10 == 9})
        last: dict[int, int] = {}
        for message in predicted:
            offset = decode_prediction(message.value()).provenance.source_offset
            assert offset > last.get(message.partition(), -1), "in input order"
            last[message.partition()] = offset


def record(number: int) -> bytes:
    if number % 10 == 9:
        return f"junk {number}".encode()
    return encode_record(SequenceRecord(f"r{number}", UNIT * (5 + 7 * number % 20)))


@pytest.fixture
def job(broker: KraftBroker) -> Job:
    name = f"job-{uuid.uuid4().hex[:8]}"
    broker.create_topics({f"{name}.{topic}": PARTITIONS for topic in ("in", "out", "dlq")})
    return Job(broker.bootstrap_servers, name)


def in_mid_flight(serve: Serve) -> bool:
    return serve.metric("vnp_records_total", outcome="predicted") >= 20


def test_it_is_the_default_on_a_real_broker(job):
    done = virnucpro("serve", "--print-config", **job.variables)
    assert '"VIRNUCPRO_DELIVERY": "exactly_once"' in done.stdout.decode()


def test_every_record_once_and_a_drained_stop_repeats_nothing(job, tmp_path):
    with serving(tmp_path / "a.log", **job.worker(0), VIRNUCPRO_MAX_INFLIGHT_RECORDS="40") as serve:
        job.publish(0, RECORDS)
        wait_until(lambda: in_mid_flight(serve), "some predictions")
        assert serve.stop(signal.SIGTERM) == 0
    with serving(tmp_path / "b.log", **job.worker(0)):
        job.finish(RECORDS)
    job.check(RECORDS)


def test_sigkill_repeats_nothing_and_loses_nothing(job, tmp_path):
    for attempt in range(3):
        with serving(tmp_path / f"{attempt}.log", **job.worker(0)) as serve:
            job.publish(attempt * 100, attempt * 100 + 100)
            wait_until(lambda serve=serve: in_mid_flight(serve), "some predictions")
            assert serve.stop(signal.SIGKILL) == -signal.SIGKILL
    with serving(tmp_path / "last.log", **job.worker(0)):
        job.finish(300)
    job.check(300)


def test_members_that_come_go_and_die_repeat_nothing(job, tmp_path):
    with serving(tmp_path / "0.log", **job.worker(0)) as first:
        job.publish(0, 150)
        wait_until(lambda: in_mid_flight(first), "some predictions")
        with serving(tmp_path / "1.log", **job.worker(1)) as second:
            wait_until(lambda: second.metric("vnp_assigned_partitions") > 0, "partitions taken over")
            job.publish(150, RECORDS)
            time.sleep(0.5)
            assert second.stop(signal.SIGKILL) == -signal.SIGKILL
            job.finish(RECORDS)
    job.check(RECORDS)


def test_a_second_process_of_the_same_instance_fences_the_first(job, tmp_path):
    with serving(tmp_path / "0.log", **job.worker(0)) as first:
        job.publish(0, 50)
        job.finish(50)
        with serving(tmp_path / "1.log", **job.worker(0)):
            job.publish(50, RECORDS)
            assert first.process.wait(60) == 4, "its own exit code: Kafka is over for this process"
            assert "VIRNUCPRO_INSTANCE_ID" in (tmp_path / "0.log").read_text()
            job.finish(RECORDS)
    job.check(RECORDS)
