"""A real Apache Kafka broker (KRaft mode) from Maven's jars and the machine's Java, where there is no Docker.

    python -m tests.support.kafka.kraft --topic sequences:4 --topic predictions:4

runs one on port 9092 (`--port` for another) until Ctrl-C or its end, and prints its address. Needs Java 17 or newer,
Maven, Linux.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.kafka import admin
from tests.support.kafka.broker import PROPERTIES, REPLICATED, NoBroker

KAFKA = "4.4.0"
PORT = 9092
"""Of the broker of `make kafka`."""
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>local</groupId><artifactId>kraft</artifactId><version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>"""
_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath"
_JVM = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_READY = "Kafka Server started"
_resolved: list[str] = []
_SHOWN_LETTERS = 1000
_PREPARE_S, _START_S, _STOP_S = 600.0, 60.0, 20.0


@dataclass(frozen=True)
class Listeners:
    """Ways into a broker beside the plain one: their ports by name, and what the broker needs for them.

    `protocols` has the security protocol of each whose name is not that of one.
    """

    ports: Mapping[str, int] = field(default_factory=dict)
    protocols: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, object] = field(default_factory=dict)
    format_arguments: tuple[str, ...] = ()
    jvm_arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """One broker's place in a cluster: its number, and the ports (broker, controller) of each node by number."""

    cluster: str
    number: int
    ports: Mapping[int, tuple[int, int]]

    @classmethod
    def alone(cls, port: int | None = None) -> Node:
        """The only node of a new cluster, on this port or a free one."""
        (node,) = nodes(1)
        return node if port is None else Node(node.cluster, node.number, {node.number: (port, free_port())})


def nodes(count: int) -> list[Node]:
    """The places of a new cluster with so many brokers."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
    ports = {number: (free_port(), free_port()) for number in range(1, count + 1)}
    return [Node(cluster, number, ports) for number in ports]


def missing_tool() -> str | None:
    """Why no broker can be started on this machine, or None."""
    if os.uname().sysname != "Linux":
        return "a broker from jars needs Linux"
    absent = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"{' and '.join(absent)} not found" if absent else None


def class_path(folder: Path) -> str:
    """Kafka's jars, resolved into Maven's own repository; without the network where they are there already.

    Maven is run once in a process.

    Args:
        folder: for what Maven reads and writes the first time.

    Raises:
        NoBroker: they are not there and cannot be fetched, or there is nothing to run them with.
    """
    if not _resolved:
        _resolved.append(_resolve(folder))
    return _resolved[0]


def _resolve(folder: Path) -> str:
    if (reason := missing_tool()) is not None:
        raise NoBroker(reason)
    (folder / "pom.xml").write_text(_POM)
    out = folder / "class_path.txt"
    command = ["mvn", "-B", "-q", "-f", str(folder / "pom.xml"), _GOAL, f"-Dmdep.outputFile={out}"]
    for attempt in ([*command, "-o"], command):
        done = subprocess.run(attempt, capture_output=True, text=True, timeout=_PREPARE_S, check=False)
        if not done.returncode:
            return out.read_text().strip()
    raise NoBroker(f"Maven cannot fetch Kafka {KAFKA}: {(done.stdout + done.stderr)[:500]}")


def free_port() -> int:
    """Below the range that the system gives to clients, so that none takes the port of a stopped broker."""
    while not _is_free(port := random.randint(12_000, 32_000)):
        pass
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections of a broker that has just ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class KraftBroker:
    """One broker in a folder; `start` and `stop`, or `kill`, as often as a test wants, with the same data.

    Start it from the main thread: it dies with the thread that started it.

    Args:
        folder: exists, for its data and its log.
        jars: the class path.
        node: its place in a cluster of several.
    """

    def __init__(
        self, folder: Path, jars: str, listeners: Listeners | None = None, node: Node | None = None
    ) -> None:
        self._folder, self._jars, self._listeners = folder, jars, listeners or Listeners()
        self._node = node or Node.alone()
        self._port, _ = self._node.ports[self._node.number]
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"
        self._begun_at = 0
        self.bootstrap_servers = f"127.0.0.1:{self._port}"
        self._format()

    def start(self) -> KraftBroker:
        """Start it and wait until it serves."""
        self.spawn()
        return self.wait_ready()

    def spawn(self) -> None:
        """Start its process; `is_ready` says when it serves."""
        self._begun_at = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._folder / "server.properties")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def wait_ready(self) -> KraftBroker:
        """Wait until it serves; kills it and raises RuntimeError if that takes too long."""
        deadline = time.monotonic() + _START_S
        while not self.is_ready():
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the broker did not start:\n{self._said()[-3000:]}")
            time.sleep(0.05)
        return self

    def is_ready(self) -> bool:
        """Whether it serves since it was started last; raises RuntimeError if it has ended instead."""
        if _READY in self._said():
            return True
        if self.has_ended:
            raise RuntimeError(f"the broker did not start:\n{self._said()[-3000:]}")
        return False

    @property
    def has_ended(self) -> bool:
        """Whether no process of it runs."""
        return self._process is None or self._process.poll() is not None

    def terminate(self) -> None:
        """Ask it to stop in order; `has_ended` says when it has."""
        if self._process is not None:
            self._process.terminate()

    def wait(self) -> str:
        """Wait until it ends by itself; returns the end of its log."""
        assert self._process is not None, "it has not been started"
        self._process.wait()
        return self._log.read_text(errors="replace")[-_SHOWN_LETTERS:]

    @property
    def pid(self) -> int:
        """Of the broker that runs."""
        assert self._process is not None, "it has not been started"
        return self._process.pid

    def stop(self) -> None:
        """Stop it in order."""
        if self._process is None:
            return
        self.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Stop it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Let it answer no request, with all connections as they are, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        self._signal(signal.SIGCONT)

    def _said(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._begun_at)
            return log.read().decode(errors="replace")

    def _signal(self, number: int) -> None:
        assert self._process is not None, "it has not been started"
        self._process.send_signal(number)

    def create_topics(self, topics: Mapping[str, int], **config: str) -> None:
        """Create topics, each with its number of partitions."""
        admin.create_topics(self.bootstrap_servers, topics, config)

    def _format(self) -> None:
        (self._folder / "server.properties").write_text(
            "".join(f"{name}={value}\n" for name, value in self._properties().items())
        )
        command = ["format", "-t", self._node.cluster, "-c", str(self._folder / "server.properties")]
        command += self._listeners.format_arguments
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", *command),
            capture_output=True,
            timeout=_START_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the broker's storage cannot be formatted: {done.stderr.decode()[-2000:]}")

    def _java(self, main: str, *arguments: str) -> list[str]:
        return ["java", *_JVM, *self._listeners.jvm_arguments, "-cp", self._jars, main, *arguments]

    def _properties(self) -> dict[str, object]:
        ports = {"PLAINTEXT": self._port, **self._listeners.ports}
        addresses = [f"{name}://127.0.0.1:{port}" for name, port in ports.items()]
        controllers = {
            number: f"127.0.0.1:{controller}" for number, (_, controller) in self._node.ports.items()
        }
        return {
            "process.roles": "broker,controller",
            "node.id": self._node.number,
            "log.dirs": self._folder / "data",
            "controller.quorum.voters": ",".join(f"{number}@{at}" for number, at in controllers.items()),
            "listeners": ",".join([*addresses, f"CONTROLLER://{controllers[self._node.number]}"]),
            "advertised.listeners": ",".join(addresses),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": ",".join(
                [
                    "CONTROLLER:PLAINTEXT",
                    *(f"{name}:{self._listeners.protocols.get(name, name)}" for name in ports),
                ]
            ),
            **PROPERTIES,
            **(REPLICATED if len(self._node.ports) > 1 else {}),
            **self._listeners.properties,
        }


def main() -> None:
    """Run a broker until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topic", action="append", default=[], metavar="NAME:PARTITIONS")
    parser.add_argument(
        "--port", type=int, default=PORT, help="the same at every start [default: %(default)s]"
    )
    options = parser.parse_args()
    topics = {name: int(count) for name, _, count in (t.partition(":") for t in options.topic)}
    if not _is_free(options.port):
        raise SystemExit(
            f"no broker: port {options.port} is taken; stop what has it, or name another with --port"
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            broker = KraftBroker(
                Path(folder), class_path(Path(folder)), node=Node.alone(options.port)
            ).start()
        except NoBroker as reason:
            raise SystemExit(f"no broker: {reason}") from reason
        except KeyboardInterrupt:
            return
        try:
            if topics:
                broker.create_topics(topics)
            print(f"Kafka {KAFKA} is at {broker.bootstrap_servers}; Ctrl-C stops it", flush=True)
            log = broker.wait()
            raise SystemExit(
                f"{log}\nthe broker at {broker.bootstrap_servers} has ended: the end of its log is above"
            )
        except KeyboardInterrupt:
            pass
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
