"""The bundled model on this machine's processors: `make bench-cpu`.

    python -m benchmarks.cpu [--rounds 3] [--records 4000] [--folder DIR]

* `virnucpro predict` of 500 kb (1,000 reads of 500 bases, half of them with an open frame), start-up included: with one
  and with two threads, alone and while another program keeps every core busy.
* A stream of records of 60 to 500 bases in a real Kafka, by the service (exactly once), by a plain loop, and by the
  same logic inside quixstreams and FastStream (benchmarks/loops; at least once, each in an environment of its own). The
  clock runs from the first committed offset that is seen to the last, so start-up does not count. They take turns, and
  share the cores with the broker. Between them the engine alone scores the same records, already prepared.
* The engine in bf16 against fp32, and where its time goes in fp32, by kind of operator.
* The service with a model that computes nothing, exactly once: processor time a record around the model.

Needs Java and Maven for the broker (tests/support/kafka/kraft.py).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.delivery import INPUT, PARTITIONS, Committed, Stream, kafka, measure, watch
from benchmarks.files import write_records
from benchmarks.machine import NOT_RUN, RESULTS, ROOT, about, cpu_seconds, figure, save
from benchmarks.operators import operator_times
from benchmarks.records import MIXED, READ, partition_of, reads
from schemas import SequenceRecord, encode_record
from tests.support.harness import Child, Serve, environment
from tests.support.kafka.kraft import KraftBroker
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.models.engine import Engine
from virnucpro_core.scoring.model import preparer
from virnucpro_core.scoring.packing import batches
from virnucpro_core.sequence.fasta import read_sequences

READS = 1000
"""Of `predict`: 500 kb."""
FRAMEWORKS = {"quixstreams": "quixstreams==3.28.1", "faststream": "faststream[confluent]==0.7.8"}
_ENVIRONMENTS = ROOT / ".scratch" / "loops"
_NOOP_RECORDS = 20_000
_PRECISION_RECORDS = 1000
_PREDICT_S = 300.0
_SPIN = "while True: pass"


@dataclass(frozen=True)
class Took:
    """One run of a command: seconds on the wall, and of the processor."""

    wall_s: float
    cpu_s: float


def run(arguments: Sequence[str], **variables: str) -> Took:
    """Run a command of this project to its end; raises RuntimeError if it fails or takes too long."""
    begun = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "consumer.cli.app", *arguments],
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"virnucpro {' '.join(arguments)} failed: {said[-500:]}")
    return Took(time.perf_counter() - begun, used.ru_utime + used.ru_stime)


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Another program computes on so many cores while the block runs."""
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
        for process in spinning:
            process.wait(10)


def predict(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """`predict` of the reads, by threads and by what else the machine does."""
    path = folder / "reads.fasta"
    write_records(path, READS)
    cores = len(os.sched_getaffinity(0))
    found = []
    for others, times in ((0, rounds), (cores, max(1, rounds // 3))):
        took: dict[int, list[Took]] = {1: [], cores: []}
        with busy_cores(others):
            for _ in range(times):
                for threads, runs in took.items():
                    command = ("predict", str(path), "--device", "cpu", "--quiet", "--threads", str(threads))
                    runs.append(run(command))
        for threads, runs in took.items():
            found.append(
                {
                    "busy_cores": others,
                    "threads": threads,
                    "wall_s": figure([each.wall_s for each in runs]),
                    "cpu_s": figure([each.cpu_s for each in runs]),
                }
            )
            print(found[-1], flush=True)
    return found


class Loop(Child):
    """One of benchmarks/loops as a process."""

    def __init__(self, python: Path, module: str, log: Path, *arguments: str) -> None:
        self.command = (str(python), "-m")
        super().__init__([f"benchmarks.loops.{module}", *arguments], log, {})


def framework_python(name: str) -> Path:
    """The Python of a framework's environment, which is made first; raises CalledProcessError if it cannot be."""
    venv = _ENVIRONMENTS / name
    subprocess.run(
        [ROOT / "benchmarks/loops/environment.sh", venv, sys.executable, FRAMEWORKS[name]],
        check=True,
        capture_output=True,
        text=True,
    )
    return venv / "bin" / "python"


def loops() -> tuple[dict[str, tuple[Path, str, *tuple[str, ...]]], dict[str, str]]:
    """Python, module and options of each loop, and why others cannot run."""
    python = Path(sys.executable)
    found: dict[str, tuple[Path, str, *tuple[str, ...]]] = {
        "plain loop": (python, "plain"),
        "plain loop, batches sorted by length": (python, "plain", "--by-length"),
    }
    missing = {}
    for name, requirement in FRAMEWORKS.items():
        try:
            found[requirement] = (framework_python(name), f"with_{name}")
        except (subprocess.CalledProcessError, OSError) as error:
            missing[requirement] = f"its environment cannot be made: {error}"
    return found, missing


def publish(broker: KraftBroker, count: int) -> None:
    """The stream that all of them read: records of mixed lengths."""
    broker.create_topics({INPUT: PARTITIONS})
    stream = Stream(broker.bootstrap_servers)
    for number, (record_id, letters) in enumerate(reads(count, *MIXED)):
        stream.send(
            partition_of(number, PARTITIONS), record_id, encode_record(SequenceRecord(record_id, letters))
        )
    stream.flush()


class Alone:
    """The engine without a service."""

    def __init__(self, records: int, precision: str = "fp32") -> None:
        self._engine = Engine(Bundle.load(find_bundle("nano")), device="cpu", precision=precision)
        prepare = preparer(self._engine)
        prepared = [prepare(record_id, letters) for record_id, letters in reads(records, *MIXED)]
        frames = [frame for record in prepared for frame in record.frames]
        self._records = records
        self.cpu_us = 0.0
        """Processor time a record, at the last call of `score`."""
        self._batches = list(batches(frames, self._engine.default_token_budget))
        self.score()

    def score(self) -> float:
        """Records a second that the engine scores, already prepared."""
        begun, used = time.perf_counter(), time.process_time()
        for batch in self._batches:
            self._engine.score(batch)
        self.cpu_us = (time.process_time() - used) / self._records * 1e6
        return self._records / (time.perf_counter() - begun)

    def scores_of_the_sample(self) -> np.ndarray:
        """Of the frames of the sequences that the package brings."""
        prepare = preparer(self._engine)
        records = read_sequences(str(ROOT / "consumer" / "data" / "sample.fasta"))
        frames = [frame for record_id, _, letters in records for frame in prepare(record_id, letters).frames]
        budget = self._engine.default_token_budget
        return np.concatenate([self._engine.score(batch) for batch in batches(frames, budget)])


def precisions(records: int, rounds: int) -> dict[str, Any]:
    """bf16 against fp32 on the processor: the engine's rate, in turns, and the labels of the bundled sample."""
    engines = {precision: Alone(records, precision) for precision in ("fp32", "bf16")}
    rates: dict[str, list[float]] = {precision: [] for precision in engines}
    for _ in range(rounds):
        for precision, engine in engines.items():
            rates[precision].append(engine.score())
    expected, got = (engine.scores_of_the_sample() for engine in engines.values())
    return {
        "records_per_s": {precision: figure(each) for precision, each in rates.items()},
        "frames": len(expected),
        "equal": round(float((expected.argmax(1) == got.argmax(1)).mean()), 4),
        "largest_difference": float(f"{np.abs(expected - got).max():.3g}"),
    }


def service(broker: KraftBroker, folder: Path, name: str) -> Child:
    """The service, exactly once, ready."""
    variables = {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "VIRNUCPRO_DEVICE": "cpu",
        "VIRNUCPRO_INPUT_TOPIC": INPUT,
        "VIRNUCPRO_OUTPUT_TOPIC": f"{name}.out",
        "VIRNUCPRO_DLQ_TOPIC": f"{name}.dlq",
        "VIRNUCPRO_GROUP_ID": name,
        "VIRNUCPRO_DELIVERY": "exactly_once",
    }
    return Serve(folder / f"{name}.log", **variables)


def streams(broker: KraftBroker, folder: Path, records: int, rounds: int) -> dict[str, Any]:
    """Records a second of the service, the engine alone and each loop."""
    ways, missing = loops()
    alone = Alone(records)
    rates: dict[str, list[float]] = {"engine alone": [], "service": [], **{way: [] for way in ways}}
    cpus: dict[str, list[float]] = {way: [] for way in rates if way != "engine alone"}
    engine_cpu: list[float] = []
    broker_cpu: list[float] = []
    for number in range(rounds):
        for way in cpus:
            rates["engine alone"].append(alone.score())
            engine_cpu.append(alone.cpu_us)
            name = re.sub(r"[^a-z-]+", "-", f"{way}") + str(number)
            broker.create_topics({f"{name}.out": PARTITIONS, f"{name}.dlq": PARTITIONS})
            if way == "service":
                child = service(broker, folder, name)
            else:
                topics = ("--source", INPUT, "--sink", f"{name}.out", "--group", name)
                server = ("--bootstrap", broker.bootstrap_servers)
                python, module, *options = ways[way]
                child = Loop(python, module, folder / f"{name}.log", *server, *topics, *options)
            progress = Committed(broker.bootstrap_servers, name)
            try:
                child.ready()
                broker_before = cpu_seconds(broker.pid)
                rate, cpu = watch(child, progress, records)
                if way == "service":
                    broker_cpu.append((cpu_seconds(broker.pid) - broker_before) / records * 1e6)
            finally:
                progress.close()
                child.stop()
                child.close()
            rates[way].append(rate)
            cpus[way].append(cpu * 1e6)
            print(
                f"round {number}: {way} {rate:.0f} records/s, {cpu * 1e6:.0f} us of processor time",
                flush=True,
            )
    return {
        "records": records,
        "bases": list(MIXED),
        NOT_RUN: missing,
        "records_per_s": {way: figure(each) for way, each in rates.items()},
        "cpu_us_a_record": {way: figure(each) for way, each in cpus.items()},
        "engine_cpu_us": figure(engine_cpu),
        "broker_cpu_us": figure(broker_cpu),
    }


def around(broker: KraftBroker, folder: Path, rounds: int) -> dict[str, Any]:
    """What the service takes a record beside the model, exactly once."""
    runs = [measure(broker, folder, _NOOP_RECORDS, "exactly_once", 100, number) for number in range(rounds)]
    return {
        "records": _NOOP_RECORDS,
        "records_per_s": figure([each.records_per_s for each in runs]),
        "cpu_us": figure([each.cpu_us for each in runs]),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=4000, help="of the stream")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where cpu.json is written")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "about": about(),
        "kb": READS * READ // 1000,
    }
    with tempfile.TemporaryDirectory() as name:
        result["predict"] = predict(Path(name), options.rounds)
    result["precisions"] = precisions(_PRECISION_RECORDS, options.rounds)
    result["operators"] = operator_times(Alone(_PRECISION_RECORDS).score)
    with kafka() as (broker, folder):
        publish(broker, max(options.records, _NOOP_RECORDS))
        result["streams"] = streams(broker, folder, options.records, max(1, options.rounds - 1))
        result["around"] = around(broker, folder, options.rounds)
    print(save("cpu", result, options.folder).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
