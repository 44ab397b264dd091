"""Which real broker this machine can run: one in a container, else one from jars."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import docker
import pytest
from docker.context import ContextAPI
from docker.errors import DockerException
from requests import RequestException

from tests.support.kafka.broker import Broker, NoBroker
from tests.support.kafka.kraft import KraftBroker, class_path

_ANSWER_S = 10


def ping_engine() -> None:
    """Ask the Docker engine for a sign of life: that a client is installed says nothing about an engine.

    Raises:
        DockerException, RequestException: there is none, or it does not answer.
    """
    address = urlsplit(os.environ.get("DOCKER_HOST") or ContextAPI.get_current_context().Host)
    if address.scheme == "unix":
        # Docker's client leaves a socket open when it cannot connect it.
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_ANSWER_S)
                probe.connect(address.path)
        except OSError as error:
            raise DockerException(f"{address.path}: {error}") from error
    with closing(docker.from_env(timeout=_ANSWER_S)) as client:
        client.ping()


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


def do_without(
    reason: Exception, environment: Mapping[str, str] = os.environ, what: str = "real Kafka"
) -> NoReturn:
    """Skip a test that needs a real broker, or what is named instead; in CI that is a failure."""
    if environment.get("CI") == "true":
        pytest.fail(f"no {what} in CI: {reason}")
    pytest.skip(f"no {what} here: {reason}")
