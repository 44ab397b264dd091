"""What exactly_once costs against at_least_once: the same stream, the same service, a real Kafka.

    python -m benchmarks.delivery [--records 100000] [--rounds 5] [--intervals 100] [--report FILE]

The stream is published first; then the service runs over all of it with a model that computes nothing
(tests/support/noop_service.py), so that what is measured is reading, delivering and committing, at the
highest rate that the
service can reach. The clock runs from the first committed offset that is seen to the last, so start-up does not count.
The two guarantees alternate round by round, so that both run under the same load; each run has a separate group and
output topics, and one uncounted round warms up the broker. Service and broker share this machine's cores.

The ratio of a round is that of its two runs; the median round counts, and the lowest and highest show how noisy it was.
Needs Java and Maven (tests/support/kafka/kraft.py).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from benchmarks.machine import cpu_seconds
from schemas import SequenceRecord, encode_record
from tests.support.harness import Child, NoopServe, serving
from tests.support.kafka.kraft import KraftBroker, class_path, missing_tool

GUARANTEES = ("at_least_once", "exactly_once")
PARTITIONS = 4
INPUT = "sequences"
_LOOK_S = 0.02
_STALLED_S = 60.0
_FLUSH_S = 60.0
_COORDINATOR_S = 30.0
_NO_COORDINATOR_YET = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)


@dataclass(frozen=True)
class Run:
    """One run over the stream; `cpu_us` is the service's processor time for a record, which noise moves less."""

    guarantee: str
    interval_ms: int
    round: int
    records_per_s: float
    cpu_us: float


@dataclass(frozen=True)
class Ratio:
    """exactly_once / at_least_once, round by round."""

    median: float
    lowest: float
    highest: float


def records_per_s(first: tuple[float, int], last: tuple[float, int]) -> float:
    """The rate between two looks at (seconds, records committed).

    Raises:
        ValueError: nothing was committed between them.
    """
    seconds, records = last[0] - first[0], last[1] - first[1]
    if seconds <= 0 or records <= 0:
        raise ValueError("the whole stream was committed at one look: publish more records")
    return records / seconds


def ratio(runs: Iterable[Run], figure: str = "records_per_s") -> Ratio:
    """Compare the two runs of each round; `figure` is a field of `Run`."""
    by_round: dict[int, dict[str, float]] = {}
    for run in runs:
        by_round.setdefault(run.round, {})[run.guarantee] = getattr(run, figure)
    ratios = [pair["exactly_once"] / pair["at_least_once"] for pair in by_round.values()]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


class Stream:
    """Publishes records of about 600 bases: random codons without a stop, so that a real model has a frame to score."""

    def __init__(
        self, bootstrap: str, topic: str = INPUT, message_bytes: int = 1_000_000, linger_ms: int = 5
    ) -> None:
        self._topic = topic
        codons = {"".join(letters) for letters in product("ACGT", repeat=3)} - {"TAA", "TAG", "TGA"}
        self._codons = np.array(sorted(codons), dtype="S3")
        self._random = np.random.default_rng(1)
        self._failed: list[str] = []
        options = {"compression.type": "lz4", "message.max.bytes": message_bytes, "linger.ms": linger_ms}
        options["log_level"] = (
            2  # flush() reports what fails; a broker that stops before this client does is no failure
        )
        self._producer = Producer({"bootstrap.servers": bootstrap} | options)

    def sequence(self) -> str:
        chosen = self._random.integers(0, len(self._codons), self._random.integers(150, 251))
        return self._codons[chosen].tobytes().decode()

    def value(self, record_id: str) -> bytes:
        return encode_record(SequenceRecord(record_id, self.sequence()))

    def send(self, partition: int, key: str, value: bytes) -> None:
        """Hand over one message; waits while the client's queue is full."""
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key.encode(), partition, on_delivery=self._reported
                )
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until the broker has all of them; raises RuntimeError if it does not take them."""
        left = self._producer.flush(_FLUSH_S)
        if left or self._failed:
            raise RuntimeError(f"not published: {left} without an answer, {self._failed[:3]}")

    def _reported(self, error: object, _message: object) -> None:
        if error:
            self._failed.append(str(error))


class Committed:
    """A group's committed offsets, asked for again and again by one client."""

    def __init__(self, bootstrap: str, group: str, topic: str = INPUT, partitions: int = PARTITIONS) -> None:
        # read_committed would make the broker hold its answer back while a transaction is open.
        options = {"bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_uncommitted"}
        self._client = Consumer(options)
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    def offsets(self) -> list[int]:
        """For each partition, of a topic that began at 0; a broker that is new may have to be asked again."""
        deadline = time.monotonic() + _COORDINATOR_S
        while True:
            try:
                found = self._client.committed(self._partitions, timeout=30)
                return [max(0, partition.offset) for partition in found]
            except KafkaException as error:
                if error.args[0].code() not in _NO_COORDINATOR_YET or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def close(self) -> None:
        self._client.close()


@contextmanager
def kafka() -> Iterator[tuple[KraftBroker, Path]]:
    """A real broker, and a folder that goes with it when it stops."""
    if (reason := missing_tool()) is not None:
        raise SystemExit(f"no real Kafka here: {reason}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = KraftBroker(folder, class_path(folder))
        try:
            yield broker.start(), folder
        finally:
            broker.stop()


def measure(
    broker: KraftBroker, folder: Path, records: int, guarantee: str, interval_ms: int, number: int
) -> Run:
    """One run over the published stream, with a new group and new output topics."""
    name = f"{guarantee}.{interval_ms}.{number}"
    output, dead = f"{name}.out", f"{name}.dlq"
    broker.create_topics({output: PARTITIONS, dead: PARTITIONS})
    variables = {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "VIRNUCPRO_INPUT_TOPIC": INPUT,
        "VIRNUCPRO_OUTPUT_TOPIC": output,
        "VIRNUCPRO_DLQ_TOPIC": dead,
        "VIRNUCPRO_GROUP_ID": name,
        "VIRNUCPRO_DELIVERY": guarantee,
        "VIRNUCPRO_COMMIT_INTERVAL_MS": str(interval_ms),
        "VIRNUCPRO_STATE_DIR": str(folder / "state"),
    }
    progress = Committed(broker.bootstrap_servers, name)
    try:
        with serving(folder / f"{name}.log", kind=NoopServe, **variables) as serve:
            rate, cpu = watch(serve, progress, records)
            if (code := serve.stop()) != 0:
                raise RuntimeError(
                    f"the service ended with exit code {code}:\n{serve.log.read_text()[-3000:]}"
                )
    finally:
        progress.close()
    return Run(guarantee, interval_ms, number, rate, cpu * 1e6)


def watch(process: Child, progress: Committed, records: int) -> tuple[float, float]:
    """Records/s from the first commit to the last, and the processor seconds that `process` takes for a record."""
    pid = process.process.pid
    first: tuple[float, int] | None = None
    done, moved_at, cpu_at_first = 0, time.monotonic(), 0.0
    while done < records:
        before, done = done, sum(progress.offsets())
        now = time.monotonic()
        if done > before:
            moved_at = now
        elif now - moved_at > _STALLED_S or process.process.poll() is not None:
            raise RuntimeError(f"stalled at {done} of {records}:\n{process.log.read_text()[-3000:]}")
        if first is None and done:
            first, cpu_at_first = (now, done), cpu_seconds(pid)
        time.sleep(_LOOK_S)
    assert first is not None
    cpu = cpu_seconds(pid) - cpu_at_first
    return records_per_s(first, (now, done)), cpu / (done - first[1])


def publish(broker: KraftBroker, records: int) -> None:
    """Make the stream that every run reads."""
    broker.create_topics({INPUT: PARTITIONS})
    stream = Stream(broker.bootstrap_servers)
    for number in range(records):
        stream.send(number % PARTITIONS, f"k{number}", stream.value(f"r{number}"))
    stream.flush()


def compare(
    broker: KraftBroker, folder: Path, records: int, rounds: int, intervals: Sequence[int]
) -> list[Run]:
    """Every run that counts, in the order in which they ran; prints each."""
    for guarantee in GUARANTEES:
        measure(broker, folder, records, guarantee, intervals[0], 0)
    runs: list[Run] = []
    for interval_ms in intervals:
        for number in range(1, rounds + 1):
            for guarantee in GUARANTEES:
                run = measure(broker, folder, records, guarantee, interval_ms, number)
                runs.append(run)
                print(
                    f"commits every {interval_ms:3} ms, round {number}: {guarantee:13} "
                    f"{run.records_per_s:8,.0f} records/s, {run.cpu_us:5.0f} us of processor time a record",
                    flush=True,
                )
    return runs


def summary(runs: Sequence[Run]) -> dict[str, object]:
    """The figures of one commit interval."""
    medians = {
        guarantee: {
            figure: statistics.median(getattr(run, figure) for run in runs if run.guarantee == guarantee)
            for figure in ("records_per_s", "cpu_us")
        }
        for guarantee in GUARANTEES
    }
    return {"medians": medians, "ratio": asdict(ratio(runs)), "cpu_ratio": asdict(ratio(runs, "cpu_us"))}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--intervals", type=int, nargs="+", default=[100], metavar="MS", help="of commits")
    parser.add_argument("--report", type=Path, help="a JSON file for all figures")
    options = parser.parse_args()
    with kafka() as (broker, folder):
        publish(broker, options.records)
        print(f"{options.records:,} records in {PARTITIONS} partitions; a round to warm up, then", flush=True)
        runs = compare(broker, folder, options.records, options.rounds, options.intervals)
    summaries = {ms: summary([run for run in runs if run.interval_ms == ms]) for ms in options.intervals}
    for ms in options.intervals:
        speed, cpu = (
            ratio([run for run in runs if run.interval_ms == ms], f) for f in ("records_per_s", "cpu_us")
        )
        print(
            f"commits every {ms} ms: exactly_once / at_least_once = {speed.median:.2f} ({speed.lowest:.2f} to "
            f"{speed.highest:.2f}), processor time a record {cpu.median:.2f} ({cpu.lowest:.2f} to {cpu.highest:.2f})"
        )
    if options.report:
        report = {"records": options.records, "cores": os.cpu_count(), "by_interval_ms": summaries}
        options.report.write_text(
            json.dumps(report | {"runs": [asdict(run) for run in runs]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
