"""The service as a real process, a broker in another, and plain clients to look at both from outside."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
TOPICS = ("sequences", "predictions", "sequences.dlq")
PARTITIONS = 4
START_S = 90.0
WAIT_S = 60.0


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child: this one's without any setting of the service, and the given ones."""
    foreign = ("VIRNUCPRO_", "OTEL_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return inherited | {"VIRNUCPRO_HTTP_PORT": "0", "VIRNUCPRO_HTTP_HOST": "127.0.0.1"} | variables


def virnucpro(
    *arguments: str, stdin: bytes | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end."""
    command = [sys.executable, "-m", "consumer.cli.app", *arguments]
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env=environment(**variables),
        timeout=120,
        check=False,
    )


class Child:
    """A process that prints one line of JSON when it is ready; its stderr goes to a file.

    It runs `command` and the arguments, in `folder`.
    """

    command: tuple[str, ...] = (sys.executable, "-m")
    folder: Path = ROOT

    def __init__(self, arguments: Iterable[str], log: Path, variables: dict[str, str]) -> None:
        self.log = log
        self._stderr = log.open("ab")
        self.process = subprocess.Popen(
            [*self.command, *arguments],
            cwd=self.folder,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def ready(self) -> dict[str, str]:
        """The ready line; fails with the log when the process ends or takes too long."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                line: dict[str, str] = json.loads(self._lines.get(timeout=0.2))
            except queue.Empty:
                if self.process.poll() is not None:
                    break
            else:
                return line
        raise AssertionError(f"not ready (exit code {self.process.poll()}):\n{self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM, timeout: float = WAIT_S) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._stderr.close()


class Serve(Child):
    """`virnucpro serve` as a process."""

    command = (*Child.command, "consumer.cli.app", "serve")

    def __init__(self, log: Path, *arguments: str, **variables: str) -> None:
        state = {"VIRNUCPRO_STATE_DIR": str(log.parent / "state")}
        super().__init__(arguments, log, state | variables)
        self.http = self.bootstrap = ""

    def wait_ready(self) -> Serve:
        line = self.ready()
        self.http, self.bootstrap = line["http"], line["bootstrap"]
        return self

    def get(self, page: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.http}{page}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def is_ready(self) -> bool:
        """Does it say that it is ready? One that is on its way out says nothing."""
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def metric(self, name: str, **labels: str) -> float:
        _, text = self.get("/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        raise AssertionError(f"no metric {name} {labels}")


class NoopServe(Serve):
    """The same service around a model that computes nothing: it starts in a second (tests/support/noop_service.py)."""

    command = (*Child.command, "tests.support.noop_service")


@contextmanager
def serving(log: Path, *arguments: str, kind: type[Serve] = Serve, **variables: str) -> Iterator[Serve]:
    serve = kind(log, *arguments, **variables)
    try:
        yield serve.wait_ready()
    finally:
        serve.close()


@contextmanager
def broker_process(log: Path) -> Iterator[str]:
    """The embedded broker in a separate process; gives its bootstrap address."""
    topics = [part for topic in TOPICS for part in ("--topic", f"{topic}:{PARTITIONS}")]
    child = Child(["consumer.kafka.embedded", *topics], log, {})
    try:
        yield child.ready()["bootstrap"]
    finally:
        child.stop()
        child.close()


def produce(bootstrap: str, messages: Iterable[Mapping[str, Any]], topic: str = "sequences") -> None:
    """Send messages (keyword arguments of `Producer.produce`) and see each of them acknowledged."""
    failed: list[str] = []

    def report(error: object, _message: object) -> None:
        if error:
            failed.append(str(error))

    options = {"bootstrap.servers": bootstrap, "message.max.bytes": 20_000_000, "linger.ms": 0}
    # Idempotent: a topic that has just been made may refuse a batch at first, and the next must not overtake it.
    producer = Producer(options | {"enable.idempotence": True})
    for arguments in messages:
        producer.produce(topic, on_delivery=report, **arguments)
        producer.poll(0)
    assert producer.flush(WAIT_S) == 0
    assert not failed, failed


def read(
    bootstrap: str,
    topic: str,
    enough: Callable[[list[Message]], bool],
    seconds: float = WAIT_S,
    partitions: int = PARTITIONS,
) -> list[Message]:
    """All messages of a topic from its beginning, until there are enough of them."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"test-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.message.max.bytes": 20_000_000,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        found: list[Message] = []
        deadline = time.monotonic() + seconds
        while not enough(found) and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None:
                assert message.error() is None, message.error()
                found.append(message)
        return found
    finally:
        consumer.close()


def committed(bootstrap: str, group: str = "virnucpro", topic: str = "sequences") -> int:
    """The sum of the group's committed offsets over the partitions of a topic that starts at 0."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        return sum(max(0, tp.offset) for tp in consumer.committed(partitions, timeout=10))
    finally:
        consumer.close()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
