"""How long small records wait beside a genome, and beside a partition that gets ten times what the service takes.

    python -m benchmarks.fairness [--seconds 60] [--bases 5000000] [--token-budget N] [--report FILE]

A real Kafka, the bundled model on this machine's processors, exactly once, four partitions. Three of them get a small
record each every half second, *offered in time*: the next is sent when it is due, whether or not the last was answered.
The latency of a record is the time from then until a read_committed reader has its prediction. It is measured

* alone, for so many seconds;
* beside a genome: one record of so many bases in the fourth partition, until it is answered;
* under overload: the fourth partition gets ten times the records a second that the service answered of a backlog.

Latencies are also given in batches, by the mean time of a batch in the same phase (`vnp_batch_seconds`), since that is
what the scheduling decides. Needs Java and Maven (tests/support/kafka/kraft.py).
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.delivery import INPUT, PARTITIONS, Stream, kafka
from schemas import SequenceRecord, encode_record
from tests.support.harness import Serve, serving
from tests.support.kafka.kraft import KraftBroker

OUTPUT, LETTERS = "predictions", "sequences.dlq"
BUSY, SMALL = 0, (1, 2, 3)
_EVERY_S = 0.5
_MESSAGE_BYTES = 25_000_000
_WAIT_S = 900.0


@dataclass(frozen=True)
class Phase:
    """Latencies of the small records of one phase, in seconds, and the mean seconds of a batch in it."""

    name: str
    records: int
    p50_s: float
    p99_s: float
    longest_s: float
    batch_s: float


@dataclass
class Answers:
    """Reads predictions in the background; key -> when it was seen (monotonic seconds)."""

    bootstrap: str
    partitions: int = PARTITIONS
    topics: tuple[str, ...] = (OUTPUT, LETTERS)
    seen: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Answers:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _read(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"benchmark-{uuid.uuid4()}",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
                "fetch.message.max.bytes": _MESSAGE_BYTES,
            }
        )
        consumer.assign(
            [TopicPartition(topic, number, 0) for topic in self.topics for number in range(self.partitions)]
        )
        try:
            while not self._stop.is_set():
                message = consumer.poll(0.1)
                if message is not None and message.error() is None:
                    self.seen[(message.key() or b"").decode()] = time.monotonic()
        finally:
            consumer.close()


class Trickle:
    """Sends small records in their time, and knows when each was sent."""

    def __init__(self, stream: Stream, answers: Answers) -> None:
        self._stream, self._answers = stream, answers
        self._number = 0

    def run(self, until: Callable[[], bool], name: str, serve: Serve) -> Phase:
        """One phase, which ends with all of its small records answered."""
        sent: dict[str, float] = {}
        before, due = batches(serve), time.monotonic()
        end = due + _WAIT_S
        while not until():
            assert time.monotonic() < end, f"the phase {name} does not end"
            for partition in SMALL:
                key = f"small-{self._number}"
                self._number += 1
                sent[key] = due
                self._stream.send(partition, key, self._stream.value(key))
            due += _EVERY_S
            time.sleep(max(0.0, due - time.monotonic()))
        while sent.keys() - self._answers.seen.keys():
            assert time.monotonic() < end, f"small records of the phase {name} are not answered"
            time.sleep(0.05)
        count, seconds = (after - then for after, then in zip(batches(serve), before, strict=True))
        waits = np.array([self._answers.seen[key] - at for key, at in sent.items()])
        return Phase(
            name,
            len(waits),
            float(np.quantile(waits, 0.5)),
            float(np.quantile(waits, 0.99)),
            float(waits.max()),
            seconds / max(1, count),
        )


def batches(serve: Serve) -> tuple[float, float]:
    """Batches run so far, and their seconds on the device."""
    _, text = serve.get("/metrics")
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        if family.name == "vnp_batch_seconds"
        for sample in family.samples
    }
    return found["vnp_batch_seconds_count"], found["vnp_batch_seconds_sum"]


def genome(stream: Stream, bases: int) -> bytes:
    """One record of so many bases, without a stop codon in its first frame."""
    parts: list[str] = []
    while sum(map(len, parts)) < bases:
        parts.append(stream.sequence())
    return encode_record(SequenceRecord("genome", "".join(parts)[:bases]))


def measure(
    broker: KraftBroker, folder: Path, seconds: float, bases: int, token_budget: int | None
) -> tuple[float, list[Phase]]:
    """Records a second of a backlog, and the three phases; prints each."""
    large = {"max.message.bytes": str(_MESSAGE_BYTES)}
    broker.create_topics({INPUT: PARTITIONS, OUTPUT: PARTITIONS, LETTERS: PARTITIONS}, **large)
    variables = {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "VIRNUCPRO_MAX_MESSAGE_BYTES": str(_MESSAGE_BYTES),
        "VIRNUCPRO_MAX_SEQUENCE_BASES": str(bases),
        "VIRNUCPRO_STATE_DIR": str(folder / "state"),
    }
    if token_budget is not None:
        variables["VIRNUCPRO_TOKEN_BUDGET"] = str(token_budget)
    stream = Stream(broker.bootstrap_servers, message_bytes=_MESSAGE_BYTES)
    phases: list[Phase] = []
    with (
        serving(folder / "service.log", kind=Serve, **variables) as serve,
        Answers(broker.bootstrap_servers) as answers,
    ):
        trickle = Trickle(stream, answers)

        def phase(name: str, until: Callable[[], bool]) -> None:
            phases.append(trickle.run(until, name, serve))
            print(phases[-1], flush=True)

        rate = _rate(stream, answers, serve)
        print(f"{rate:.0f} records/s of a backlog", flush=True)
        phase("alone", _after(seconds))
        stream.send(BUSY, "genome", genome(stream, bases))
        phase("beside a genome", lambda: "genome" in answers.seen)
        with Overload(stream, 10 * rate):
            phase("under overload", _after(seconds))
    return rate, phases


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def _rate(stream: Stream, answers: Answers, serve: Serve, count: int = 200) -> float:
    """Records a second that the service answers of a backlog."""
    keys = {f"backlog-{number}" for number in range(count)}
    for number, key in enumerate(sorted(keys)):
        stream.send(number % PARTITIONS, key, stream.value(key))
    end = time.monotonic() + _WAIT_S
    while keys - answers.seen.keys():
        assert time.monotonic() < end, "the backlog is not answered"
        time.sleep(0.02)
    at = sorted(answers.seen[key] for key in keys)
    return (count // 2) / (at[-1] - at[count // 2 - 1])


class Overload:
    """Sends to one partition at a steady rate, in the background."""

    def __init__(self, stream: Stream, rate: float) -> None:
        self._stream, self._rate, self._stop = stream, rate, threading.Event()
        self._values = [stream.value(f"busy-{number}") for number in range(100)]

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _send(self) -> None:
        begun, number = time.monotonic(), 0
        while not self._stop.is_set():
            while number < (time.monotonic() - begun) * self._rate:
                self._stream.send(BUSY, f"busy-{number}", self._values[number % 100])
                number += 1
            time.sleep(0.01)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of the phases without a genome")
    parser.add_argument("--bases", type=int, default=5_000_000, help="of the genome")
    parser.add_argument("--token-budget", type=int, help="of a batch [default: the service's own]")
    parser.add_argument("--report", type=Path, help="a JSON file for all figures")
    options = parser.parse_args()
    with kafka() as (broker, folder):
        rate, phases = measure(broker, folder, options.seconds, options.bases, options.token_budget)
    alone = phases[0]
    for phase in phases[1:]:
        more = (phase.p99_s - alone.p99_s) / phase.batch_s
        print(
            f"{phase.name}: p99 {phase.p99_s:.2f} s, {more:.1f} batches more than alone ({alone.p99_s:.2f} s), "
            f"{phase.p99_s / alone.p99_s:.1f} times as long"
        )
    if options.report:
        report = {
            "bases": options.bases,
            "token_budget": options.token_budget,
            "records_per_s_of_a_backlog": rate,
            "cores": os.cpu_count(),
            "phases": [asdict(each) for each in phases],
        }
        options.report.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
