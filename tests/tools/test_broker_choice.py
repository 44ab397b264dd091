"""Which real broker the tests of tests/kafka get: in a container where a Docker engine answers, else from jars."""

from __future__ import annotations

from pathlib import Path

import pytest
from docker.errors import DockerException
from requests import ConnectionError as EngineGone

from tests.support.kafka.broker import NoBroker
from tests.support.kafka.choice import do_without, start_broker
from tests.support.kafka.container import variables

FOLDER = Path("unused")


class Started:
    """A broker that only says what kind it is."""

    def __init__(self, kind: str) -> None:
        self.bootstrap_servers = kind


def container(_folder: Path) -> Started:
    return Started("container")


def jars(_folder: Path) -> Started:
    return Started("jars")


def no_jars(_folder: Path) -> Started:
    raise NoBroker("mvn not found")


def engine() -> bool:
    return True


def no_engine() -> bool:
    raise DockerException("no socket")


def engine_that_hangs_up() -> bool:
    raise EngineGone("reset")


def test_where_an_engine_answers_the_broker_is_in_a_container():
    assert start_broker(FOLDER, engine, container, jars).bootstrap_servers == "container"


@pytest.mark.parametrize("ping", [no_engine, engine_that_hangs_up])
def test_without_an_engine_it_is_from_jars(ping):
    assert start_broker(FOLDER, ping, container, jars).bootstrap_servers == "jars"


def test_a_client_on_the_path_is_no_engine(tmp_path, monkeypatch):
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    assert start_broker(FOLDER, container=container, jars=jars).bootstrap_servers == "jars"


def test_with_neither_the_reason_names_both():
    with pytest.raises(NoBroker, match=r"no Docker engine answers \(no socket\); mvn not found"):
        start_broker(FOLDER, no_engine, container, no_jars)


def test_without_a_broker_a_test_is_skipped_and_in_ci_it_fails():
    with pytest.raises(pytest.skip.Exception, match="mvn not found"):
        do_without(NoBroker("mvn not found"), {})
    with pytest.raises(pytest.skip.Exception):
        do_without(NoBroker("mvn not found"), {"CI": "false"})
    with pytest.raises(pytest.fail.Exception, match="mvn not found"):
        do_without(NoBroker("mvn not found"), {"CI": "true"})


def test_properties_are_written_as_the_image_reads_them():
    assert variables({"transaction.state.log.min.isr": 1, "auto.create.topics.enable": "false"}) == {
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
