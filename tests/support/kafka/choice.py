"""Which real broker this machine can run: one in a container, else one from jars."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import docker
import pytest
from docker.errors import DockerException
from requests import RequestException

from tests.support.kafka.broker import Broker, NoBroker
from tests.support.kafka.kraft import KraftBroker, class_path

_ANSWER_S = 10


def ping_engine() -> object:
    """Ask the Docker engine for a sign of life: that a client is installed says nothing about an engine.

    Raises:
        DockerException, RequestException: there is none, or it does not answer.
    """
    return docker.from_env(timeout=_ANSWER_S).ping()


def in_container(_folder: Path) -> Broker:
    from tests.support.kafka.container import ContainerBroker

    return ContainerBroker().start()


def from_jars(folder: Path) -> Broker:
    return KraftBroker(folder, class_path(folder)).start()


def start_broker(
    folder: Path,
    ping: Callable[[], object] = ping_engine,
    container: Callable[[Path], Broker] = in_container,
    jars: Callable[[Path], Broker] = from_jars,
) -> Broker:
    """A running broker.

    Args:
        folder: for the data of a broker from jars.
        ping: raises when no Docker engine answers.
        container, jars: start the two kinds.

    Raises:
        NoBroker: this machine can run neither.
    """
    try:
        ping()
    except (DockerException, RequestException) as error:
        without = f"no Docker engine answers ({error})"
    else:
        return container(folder)
    try:
        return jars(folder)
    except NoBroker as error:
        raise NoBroker(f"{without}; {error}") from error


def do_without(reason: NoBroker, environment: Mapping[str, str] = os.environ) -> NoReturn:
    """Skip a test that needs a real broker; in CI that is a failure."""
    if environment.get("CI") == "true":
        pytest.fail(f"no real Kafka in CI: {reason}")
    pytest.skip(f"no real Kafka here: {reason}")
