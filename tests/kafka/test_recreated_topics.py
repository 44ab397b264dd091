"""A topic that is deleted and made again, while the service runs and while it is down."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from schemas import SequenceRecord, decode_prediction, encode_record
from tests.support.harness import PARTITIONS, NoopServe, produce, serving, wait_until
from tests.support.kafka import admin
from tests.support.kafka.job import Job

OLD = 40


@pytest.fixture(params=["exactly_once", "at_least_once"])
def guarantee(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"VIRNUCPRO_DELIVERY": request.param}


def publish(job: Job, name: str, count: int) -> None:
    """The same number into each partition."""
    messages = (
        {"value": encode_record(SequenceRecord(f"{name}{n}", "ACGT" * 5)), "partition": n % PARTITIONS}
        for n in range(count)
    )
    produce(job.bootstrap, messages, f"{job.name}.in")


def recreate(job: Job, topic: str) -> None:
    """As fast as the broker lets it be."""
    name = f"{job.name}.{topic}"
    admin.delete_topic(job.bootstrap, name)
    deadline = time.monotonic() + 30
    while True:
        try:
            admin.create_topics(job.bootstrap, {name: PARTITIONS}, {})
            return
        except KafkaException:
            assert time.monotonic() < deadline, "the old one is still being deleted"
            time.sleep(0.05)


def answers(job: Job) -> Counter[str]:
    return Counter(decode_prediction(message.value()).id for message in job.read_all("out"))


def recreated(log: Path) -> list[str]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
    return [line["topic"] for line in lines if line["event"] == "topic_recreated"]


@pytest.mark.parametrize("new", [12, 400])
def test_an_input_topic_that_is_made_again_is_read_from_its_first_message(job, tmp_path, guarantee, new):
    log = tmp_path / "serve.log"
    with serving(log, kind=NoopServe, **job.worker(0), **guarantee) as serve:
        publish(job, "old", OLD)
        job.finish(OLD)
        recreate(job, "in")
        publish(job, "new", new)
        job.finish(new)
        wait_until(lambda: len(recreated(log)) == 1, "said")
        assert serve.stop() == 0
    once = Counter([*(f"old{n}" for n in range(OLD)), *(f"new{n}" for n in range(new))])
    assert answers(job) == once
    assert recreated(log) == [f"{job.name}.in"]


def test_an_input_topic_that_is_made_again_while_the_service_is_down(job, tmp_path):
    with serving(tmp_path / "before.log", kind=NoopServe, **job.worker(0)) as serve:
        publish(job, "old", OLD)
        job.finish(OLD)
        assert serve.stop() == 0
    recreate(job, "in")
    publish(job, "new", 400)
    with serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0)) as serve:
        job.finish(400)
        assert serve.stop() == 0
    assert answers(job) == Counter([*(f"old{n}" for n in range(OLD)), *(f"new{n}" for n in range(400))])


def test_an_output_topic_that_is_made_again_is_filled_on(job, tmp_path, guarantee):
    log = tmp_path / "serve.log"
    with serving(log, kind=NoopServe, **job.worker(0), **guarantee) as serve:
        publish(job, "old", OLD)
        job.finish(OLD)
        recreate(job, "out")
        wait_until(lambda: recreated(log) == [f"{job.name}.out"], "said")
        publish(job, "new", OLD)
        job.finish(2 * OLD)
        assert serve.stop() == 0
    assert answers(job) == Counter(f"new{n}" for n in range(OLD))
