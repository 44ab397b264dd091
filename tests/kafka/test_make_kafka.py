"""The broker of `make kafka`: on the port that it is given, and its death is noticed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.harness import ROOT, environment
from tests.support.kafka.broker import NoBroker
from tests.support.kafka.choice import do_without
from tests.support.kafka.kraft import free_port, missing_tool

END_S = 120.0


@contextmanager
def started(port: int) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "tests.support.kafka.kraft",
        "--port",
        str(port),
        "--topic",
        "sequences:2",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def child_of(process: int) -> int:
    return int(Path(f"/proc/{process}/task/{process}/children").read_text().split()[0])


def test_the_port_is_kept_and_the_brokers_death_is_noticed() -> None:
    if (reason := missing_tool()) is not None:
        do_without(NoBroker(reason))
    port = free_port()
    for _ in range(2):
        with started(port) as process:
            assert process.stdout is not None
            assert f" is at 127.0.0.1:{port}; " in process.stdout.readline()
            os.kill(child_of(process.pid), signal.SIGKILL)
            _, error = process.communicate(timeout=END_S)
        assert process.returncode == 1
        assert f"the broker at 127.0.0.1:{port} has ended" in error.splitlines()[-1]
        assert "Traceback" not in error


@pytest.mark.skipif(sys.platform != "linux", reason="a broker from jars needs Linux")
def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started(port) as process:
            _, error = process.communicate(timeout=END_S)
    assert process.returncode == 1
    assert error == f"no broker: port {port} is taken; stop what has it, or name another with --port\n"
