"""The Python client on a real broker, where delivery is exactly once and a topic that is not there stays so."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from schemas import DeadLetter
from tests.support.harness import NoopServe, serving
from tests.support.kafka.admin import create_topics
from tests.support.kafka.job import UNIT, Job
from virnucpro_client import BrokerUnavailable, Client, Topics


def topics(job: Job) -> Topics:
    return Topics(f"{job.name}.in", f"{job.name}.out", f"{job.name}.dlq")


def test_a_run_is_answered_whole_when_the_worker_is_killed_in_the_middle(job, tmp_path):
    records = [(f"r{number}", UNIT if number % 10 else "junk!") for number in range(300)]
    with Client(job.bootstrap, topics(job)) as client:
        run = client.publish(records)
        answers = client.answers(run, timeout_s=120)
        slow = job.worker(0) | {"NOOP_TOKENS_PER_S": "20000"}
        with serving(tmp_path / "first.log", kind=NoopServe, **slow) as serve:
            found = [next(answers)]
            serve.stop(signal.SIGKILL)
        with serving(tmp_path / "second.log", kind=NoopServe, **job.worker(0)):
            found += answers
    assert sorted(answer.id for answer in found) == sorted(record_id for record_id, _ in records)
    refused = {answer.id for answer in found if isinstance(answer.content, DeadLetter)}
    assert refused == {f"r{number}" for number in range(0, 300, 10)}


def test_a_topic_that_is_just_being_created_is_waited_for(job):
    name = f"{job.name}.late"
    with ThreadPoolExecutor(1) as pool, Client(job.bootstrap, replace(topics(job), input=name)) as client:
        publishing = pool.submit(client.publish, [("a", UNIT)])
        time.sleep(0.5)  # it has asked, and was told that the topic is unknown
        assert not publishing.done()
        create_topics(job.bootstrap, {name: 1}, {})
        assert publishing.result(30) is not None


def test_a_topic_that_does_not_exist_is_named(job):
    with Client(job.bootstrap, Topics(input="not.there")) as client:
        with pytest.raises(BrokerUnavailable, match=r"the topic not\.there cannot be used .*: create it"):
            client.publish([("a", UNIT)])
        with pytest.raises(BrokerUnavailable, match="the topic predictions cannot be used"):
            next(client.predictions(idle_s=1))
