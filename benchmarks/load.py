"""The HTTP port and the memory of a service that gets ten times what it can answer, while its HTTP port is attacked.

    python -m benchmarks.load [--seconds 300] [--connections 500] [--report benchmarks/results/load.json]

A real Kafka, the bundled model on this machine's processors, exactly once. First the rate is measured at which the
service answers a backlog. Then, for so many seconds,

* records come at ten times that rate;
* another process opens `--connections` HTTP connections at once, and keeps them open: half of them are idle after one
  request, half send a letter of a header a second and never end their request. It looks at each once a second, one
  after the other, and what the service has closed it opens again;
* the pages are asked in turn, ten times a second *in time*: a question is due whether or not the last one was answered,
  and its latency counts from then. Each has a connection of its own.

At the end the service is stopped, another one that computes nothing answers the rest, and every answer is read: each
record must have one. The exit code is 1 if a page took more than 200 ms (p99), a question failed, an answer is
missing or came twice, or the service kept up with half of the records, so that it was not overloaded. Before the load
the pages are asked for some seconds too, to see what the machine itself does.
Needs Java and Maven (tests/support/kafka/kraft.py).
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import platform
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from urllib.parse import urlsplit

import confluent_kafka
import numpy as np

from benchmarks.delivery import PARTITIONS, Committed, Stream, kafka
from benchmarks.machine import commit
from benchmarks.soak import memory_and_threads
from tests.support.harness import TOPICS, NoopServe, Serve, serving
from tests.support.kafka.job import read_to_the_end
from tests.support.kafka.kraft import KraftBroker

GROUP = "load"
PAGES = ("/", "/status", "/metrics", "/livez", "/readyz", "/startupz")
P99_S = 0.2
TIMES_CAPACITY = 10
_QUIET_S = 10.0
_PROBE_EVERY_S = 0.1
_PROBE_TIMEOUT_S = 5.0
_SAMPLE_S = 1.0
_BACKLOG = 200
_WAIT_S = 900.0
_HEAD = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: "
_WHOLE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True)
class Latency:
    """Of one page, in seconds; `failed` are questions without a 200."""

    page: str
    asked: int
    failed: int
    p50_s: float
    p99_s: float
    longest_s: float


@dataclass(frozen=True)
class Memory:
    """Of the service under load: resident MiB and open files, the lowest and the highest after the first third."""

    rss_mib: tuple[float, float]
    peak_mib: float
    fds: tuple[int, int]


@dataclass
class Prober:
    """Asks the pages in turn while the `with` block runs."""

    url: str
    took: dict[str, list[float]] = field(default_factory=lambda: {page: [] for page in PAGES})
    failed: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Prober:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_PROBE_TIMEOUT_S * 2)

    def _ask(self) -> None:
        begun, number = time.monotonic(), 0
        while not self._stop.is_set():
            due = begun + number * _PROBE_EVERY_S
            self._stop.wait(max(0.0, due - time.monotonic()))
            page = PAGES[number % len(PAGES)]
            number += 1
            if not self._answers(page):
                self.failed[page] += 1
            self.took[page].append(time.monotonic() - due)

    def _answers(self, page: str) -> bool:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=_PROBE_TIMEOUT_S)
        try:
            connection.request("GET", page)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return response.status == 200

    def latencies(self) -> list[Latency]:
        """A row a page."""
        return [latency(page, took, self.failed[page]) for page, took in self.took.items()]


def latency(page: str, took: Sequence[float], failed: int) -> Latency:
    """The figures of one page."""
    p50, p99 = (float(np.quantile(took, share)) for share in (0.5, 0.99))
    return Latency(page, len(took), failed, p50, p99, max(took))


def attack(url: str, connections: int, stop: Event, opened: Synchronized[int]) -> None:
    """Keep connections open, in a process of its own, until `stop`; `opened` counts how often one was opened."""
    address = urlsplit(url)
    held: dict[int, socket.socket] = {}

    def keep(number: int) -> None:
        is_slow = number % 2 == 1
        if number in held and _is_open(held[number], b"a" if is_slow else b""):
            return
        try:
            fresh = socket.create_connection((address.hostname or "", address.port or 0), timeout=1.0)
            fresh.setblocking(False)
            fresh.send(_HEAD if is_slow else _WHOLE)
        except OSError:
            return
        held[number] = fresh
        opened.value += 1

    for number in range(connections):
        keep(number)
    while True:
        for number in range(connections):
            if stop.wait(1.0 / connections):
                return
            keep(number)


def _is_open(connection: socket.socket, more: bytes) -> bool:
    """Whether the server has left it open; sends `more`, and passes over what came. A closed one is closed here too."""
    try:
        if more:
            connection.send(more)
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    connection.close()
    return False


class Overload:
    """Publishes at a steady rate to all partitions, and remembers how many."""

    def __init__(self, stream: Stream, rate: float) -> None:
        self._stream, self._rate, self._stop = stream, rate, threading.Event()
        self.published = 0

    def __enter__(self) -> Overload:
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._stream.flush()

    def _send(self) -> None:
        begun = time.monotonic()
        while not self._stop.is_set():
            while self.published < (time.monotonic() - begun) * self._rate:
                self.send(self.published)
            time.sleep(0.01)

    def send(self, number: int) -> None:
        # A sequence of its own: one that came before is answered from the cache of frames, which overloads nothing.
        self._stream.send(number % PARTITIONS, f"k{number}", self._stream.value(f"r{number}"))
        self.published += 1


def watch(serve: Serve, seconds: float) -> Memory:
    """Look at the memory and the files of the service once a second."""
    process = Path(f"/proc/{serve.process.pid}")
    rss: list[float] = []
    fds: list[int] = []
    begun = time.monotonic()
    while (elapsed := time.monotonic() - begun) < seconds:
        rss.append(memory_and_threads((process / "status").read_text())[0])
        fds.append(sum(1 for _ in (process / "fd").iterdir()))
        time.sleep(max(0.0, (len(rss)) * _SAMPLE_S - elapsed))
    settled = slice(len(rss) // 3, None)
    return Memory((min(rss[settled]), max(rss[settled])), max(rss), (min(fds[settled]), max(fds[settled])))


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait; raises RuntimeError when it takes too long."""
    end = time.monotonic() + _WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {_WAIT_S:.0f} s: {what}")
        time.sleep(0.05)


def capacity(stream: Stream, committed: Committed) -> float:
    """Records a second that the service answers of a backlog, after it has warmed up."""
    for first in (0, _BACKLOG):
        begun = time.monotonic()
        for number in range(_BACKLOG):
            stream.send(number % PARTITIONS, f"warm{number}", stream.value(f"warm{number}"))
        stream.flush()
        until(lambda: sum(committed.offsets()) >= first + _BACKLOG, "the backlog is answered")  # noqa: B023
    return _BACKLOG / (time.monotonic() - begun)


def answered(bootstrap: str) -> Counter[str]:
    """How often each source was answered, by predictions and dead letters."""
    sources: Counter[str] = Counter()
    for topic in TOPICS[1:]:
        for message in read_to_the_end(bootstrap, topic):
            headers: list[tuple[str, bytes]] = list(message.headers() or [])  # type: ignore[arg-type]
            sources[dict(headers)["vnp-source"].decode()] += 1
    return sources


def load(broker: KraftBroker, folder: Path, seconds: float, connections: int) -> dict[str, object]:
    """One run; everything that is reported of it."""
    broker.create_topics(dict.fromkeys(TOPICS, PARTITIONS))
    variables = {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "VIRNUCPRO_GROUP_ID": GROUP,
        "VIRNUCPRO_INSTANCE_ID": "load-0",
        "VIRNUCPRO_STATE_DIR": str(folder / "state"),
    }
    stream, committed = Stream(broker.bootstrap_servers), Committed(broker.bootstrap_servers, GROUP)
    spawn = multiprocessing.get_context("spawn")
    stop, opened = spawn.Event(), spawn.Value("q", 0)
    with serving(folder / "serve.log", kind=Serve, **variables) as serve:
        rate = capacity(stream, committed)
        print(f"{rate:.1f} records/s of a backlog", flush=True)
        with Prober(serve.http) as quiet:
            time.sleep(_QUIET_S)
        overload = Overload(stream, TIMES_CAPACITY * rate)
        attacker = spawn.Process(target=attack, args=(serve.http, connections, stop, opened), daemon=True)
        try:
            with overload, Prober(serve.http) as prober:
                attacker.start()
                memory = watch(serve, seconds)
        finally:
            stop.set()
            attacker.join(30)
        code = serve.stop()
    published = 2 * _BACKLOG + overload.published
    behind = published - sum(committed.offsets())
    with serving(folder / "rest.log", kind=NoopServe, **variables) as rest:
        until(lambda: sum(committed.offsets()) == published, "the rest is answered")
        rest.stop()
    committed.close()
    sources = answered(broker.bootstrap_servers)
    return {
        "seconds": seconds,
        "capacity_records_per_s": rate,
        "offered_records_per_s": overload.published / seconds,
        "published": published,
        "behind_at_the_end": behind,
        "exit_code": code,
        "lost": published - len(sources),
        "twice": sum(1 for count in sources.values() if count > 1),
        "connections": connections,
        "connections_opened": opened.value,
        "memory": asdict(memory),
        "quiet": [asdict(each) for each in quiet.latencies()],
        "loaded": [asdict(each) for each in prober.latencies()],
        "machine": {
            "cores": os.cpu_count(),
            "load_average": os.getloadavg()[0],
            "python": platform.python_version(),
        },
        "confluent_kafka": confluent_kafka.version(),
        "commit": commit(),
    }


def complaints(report: dict[str, object]) -> list[str]:
    """What is not as it should be."""
    found = [f"{name}: {report[name]}" for name in ("lost", "twice", "exit_code") if report[name]]
    behind, published = report["behind_at_the_end"], report["published"]
    assert isinstance(behind, int)
    assert isinstance(published, int)
    if behind < published / 2:
        found.append(f"no overload: of {published:,} records {published - behind:,} were answered in time")
    rows = report["loaded"]
    assert isinstance(rows, list)
    found += [f"{row['page']}: p99 {row['p99_s'] * 1000:.0f} ms" for row in rows if row["p99_s"] > P99_S]
    return found + [f"{row['page']}: {row['failed']} failed" for row in rows if row["failed"]]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--report", type=Path, help="a JSON file for all figures")
    options = parser.parse_args()
    with kafka() as (broker, folder):
        report = load(broker, folder, options.seconds, options.connections)
    text = json.dumps(report, indent=1)
    if options.report:
        options.report.write_text(text + "\n")
    print(text)
    found = complaints(report)
    print("\n".join(found) or "all as it should be", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
