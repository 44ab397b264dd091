"""The service end to end, against the bare forward in the same run: `make bench-e2e`.

    python -m benchmarks.e2e [--case MODEL:PRECISION ...] [--seconds 12] [--bundle FOLDER] [--folder DIR]

For each case: the embedded broker and the service as processes; reads of 500 bases, half of them with an open frame,
published by a third process so that input always waits; and, over a window that begins when the service has warmed up,
its tokens a second, batches, processor time a record, and how busy the GPU is. Before records are published, and after
the service has ended, the model alone is measured in this process: ESM-2's packed forward, and `Engine.score`, which
adds DNABERT-S, pooling and the head, in turns, over batches as full as the service's. A share is that of the medians.

A model is `nano`, or a shape (8M, 650M, 3B) of which a bundle of random weights is written first, into `--bundle` if
that is given and not there yet. `3B:loop-fp32` runs the plain loop (benchmarks/loops/plain.py) in place of the service.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.delivery import Committed, records_per_s
from benchmarks.forward import SHAPES, seconds
from benchmarks.machine import NOT_RUN, RESULTS, about, cpu_seconds, save
from benchmarks.random_bundle import random_bundle
from benchmarks.records import partition_of, reads
from schemas import SequenceRecord, encode_record
from tests.support.harness import TOPICS, Child, Serve
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.errors import CoreError
from virnucpro_core.models.engine import Engine
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.scoring.model import preparer
from virnucpro_core.scoring.packing import batches, pack
from virnucpro_core.sequence.prepare import PreparedFrame

PARTITIONS = 16
LOOP = "loop-"
LOOP_RECORDS = 200
"""Records that the plain loop takes at once: about as many tokens as a batch of the service on a GPU."""
_BARE_S = 0.5
_BARE_ROUNDS = 3
_WARM_S = 3.0
_WAIT_S = 180.0
_LOOK_S = 0.25


@dataclass(frozen=True)
class Case:
    """What is served: a bundle, in a precision."""

    model: str
    precision: str
    path: Path


@dataclass
class GpuSamples:
    """Looks at the GPU four times a second while the `with` block runs; nothing without nvidia-smi."""

    busy: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    _process: subprocess.Popen[str] | None = None

    def __enter__(self) -> GpuSamples:
        query = "--query-gpu=utilization.gpu,power.draw"
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "250"]
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        except OSError:
            return self
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._thread.join(10)

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # "[N/A]"
                busy, watts = map(float, line.split(","))
                self.busy.append(busy / 100)
                self.watts.append(watts)

    def figures(self) -> dict[str, float]:
        """Means; empty without samples."""
        if not self.busy:
            return {}
        return {
            "gpu_busy": round(statistics.mean(self.busy), 4),
            "gpu_watts": round(statistics.mean(self.watts)),
        }


def publish(bootstrap: str, ahead: int, done: Synchronized[int], stop: Event) -> None:
    """Publish reads, never more than `ahead` beyond `done`, until `stop`: the work of a process."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4"})
    for number, (record_id, letters) in enumerate(reads(1 << 30)):
        while number - done.value >= ahead and not stop.is_set():
            producer.poll(0.01)
        if stop.is_set():
            break
        value = encode_record(SequenceRecord(record_id, letters))
        producer.produce(TOPICS[0], value, record_id.encode(), partition_of(number, PARTITIONS))
        producer.poll(0)
    producer.flush(30)


@contextlib.contextmanager
def publishing(bootstrap: str, ahead: int) -> Iterator[Synchronized[int]]:
    """The process that publishes; the number of records that are answered is to be kept up to date by the caller."""
    spawn = multiprocessing.get_context("spawn")
    done, stop = spawn.Value("q", 0), spawn.Event()
    process = spawn.Process(target=publish, args=(bootstrap, ahead, done, stop), daemon=True)
    process.start()
    try:
        yield done
    finally:
        stop.set()
        process.join(60)


@contextlib.contextmanager
def embedded_broker(folder: Path) -> Iterator[str]:
    """The embedded broker in a process of its own; gives its bootstrap address."""
    topics = [part for topic in TOPICS for part in ("--topic", f"{topic}:{PARTITIONS}")]
    child = Child(["consumer.kafka.embedded", *topics], folder / "broker.log", {})
    try:
        yield child.ready()["bootstrap"]
    finally:
        child.stop()
        child.close()


@dataclass(frozen=True)
class Look:
    """The service's counters at one moment."""

    at: float
    cpu_s: float
    counters: dict[str, float]

    @classmethod
    def now(cls, serve: Serve) -> Look:
        """Ask it."""
        _, text = serve.get("/metrics")
        counters = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
                counters[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return cls(time.monotonic(), cpu_seconds(serve.process.pid), counters)

    def total(self, name: str) -> float:
        """The sum over the series of a metric."""
        return sum(value for key, value in self.counters.items() if key.partition("{")[0] == name)

    def by_label(self, name: str, since: Look) -> dict[str, float]:
        """The growth of each series of a metric since an earlier look, without those that stood still."""
        grown = {
            key.partition("{")[2].rstrip("}"): value - since.counters.get(key, 0.0)
            for key, value in self.counters.items()
            if key.partition("{")[0] == name
        }
        return {key: value for key, value in grown.items() if value > 0}


def between(first: Look, last: Look) -> dict[str, Any]:
    """What the service did between two looks."""
    took = last.at - first.at

    def grown(name: str) -> float:
        return last.total(name) - first.total(name)

    records, count = grown("vnp_records_total"), grown("vnp_batch_seconds_count")
    if not records or not count:
        raise RuntimeError("the service has answered nothing in the window: take a longer one with --seconds")
    fill = "vnp_batch_fill_ratio_bucket"
    not_full = last.by_label(fill, first).get("le=0.95", 0.0)
    stages = {
        stage: spent
        for stage, spent in last.by_label("vnp_thread_seconds_total", first).items()
        if "stage=wait," not in stage or "thread=inference" in stage
    }
    return {
        "seconds": round(took, 2),
        "tokens_per_s": round(grown("vnp_tokens_total") / took),
        "records_per_s": round(records / took, 1),
        "batches": round(count),
        "batches_full": round(1 - not_full / count, 4),
        "tokens_per_batch": round(grown("vnp_batch_tokens_sum") / count),
        "batch_ms": round(grown("vnp_batch_seconds_sum") / count * 1000, 2),
        "closed_by": last.by_label("vnp_batches_total", first),
        "backpressure_s": last.by_label("vnp_backpressure_seconds_total", first),
        "cpu_us_a_record": round((last.cpu_s - first.cpu_s) / records * 1e6, 1),
        "stage_us_a_record": {
            stage: round(spent / records * 1e6, 1)
            for stage, spent in sorted(stages.items(), key=lambda item: -item[1])
        },
    }


def full_batches(engine: Engine, count: int) -> list[list[PreparedFrame]]:
    """Batches of reads, as full as the engine's own budget allows."""
    prepare, wanted = preparer(engine), count * engine.default_token_budget
    frames: list[PreparedFrame] = []
    tokens = 0
    for record_id, letters in reads(1 << 20, seed=3):
        found = prepare(record_id, letters).frames
        frames += found
        tokens += sum(frame.tokens for frame in found)
        if tokens > wanted:
            break
    return list(batches(frames, engine.default_token_budget))[:count]


class Bare:
    """The model alone, in this process."""

    def __init__(self, case: Case) -> None:
        self._engine = Engine(Bundle.load(case.path), precision=case.precision)
        self.info = self._engine.info
        self._batches = full_batches(self._engine, 4)
        self._device = self._engine.esm2.device.type
        self._tokens = sum(frame.tokens for batch in self._batches for frame in batch)
        packed = [pack([frame.protein_ids for frame in batch]) for batch in self._batches]
        self._inputs = [
            (
                torch.from_numpy(tokens.ids).to(self._engine.esm2.device),
                PackedLayout.build(tokens.cu_seqlens, len(tokens.ids), self._engine.esm2.device),
                tokens.max_seqlen,
            )
            for tokens in packed
        ]
        self.esm2: list[float] = []
        self.score: list[float] = []

    def measure(self) -> None:
        """Tokens a second of ESM-2's forward and of the engine's `score`, in turns; kept in the lists."""
        for _ in range(_BARE_ROUNDS):
            self.esm2.append(self._rate(self._forward))
            self.score.append(self._rate(self._score))

    def _forward(self) -> None:
        with torch.inference_mode():
            for ids, layout, longest in self._inputs:
                self._engine.esm2.forward_packed(ids, layout, longest)

    def _score(self) -> None:
        for batch in self._batches:
            self._engine.score(batch)

    def _rate(self, work: Callable[[], None]) -> float:
        seconds(work, self._device)
        begun, rounds = time.perf_counter(), 0
        while time.perf_counter() - begun < _BARE_S:
            seconds(work, self._device)
            rounds += 1
        return rounds * self._tokens / (time.perf_counter() - begun)


def serve_case(case: Case, folder: Path, length_s: float, ahead: int) -> dict[str, Any]:
    """One case: the figures of the window, and what the model alone does."""
    with embedded_broker(folder) as bootstrap:
        settings = {
            "VIRNUCPRO_MODEL": str(case.path),
            "VIRNUCPRO_PRECISION": case.precision,
            "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "VIRNUCPRO_DELIVERY": "at_least_once",
            "VIRNUCPRO_LOG_FORMAT": "json",
        }
        begun = time.monotonic()
        serve = Serve(folder / "serve.log", **settings)
        try:
            serve.wait_ready()
            ready_s = time.monotonic() - begun
            bare = Bare(case)
            bare.measure()
            with publishing(bootstrap, ahead) as done:
                first = _after(serve, done, _WARM_S)
                with GpuSamples() as gpu:
                    last = _after(serve, done, length_s)
                waiting = serve.metric("vnp_inflight_records")
            figures = between(first, last) | gpu.figures() | {"inflight_at_the_end": waiting}
            code = serve.stop()
            bare.measure()
        finally:
            serve.close()
    esm2, score = statistics.median(bare.esm2), statistics.median(bare.score)
    return {
        "case": f"{case.model} {case.precision}",
        "device": bare.info.device,
        "kernels": bare.info.kernels,
        "ready_s": round(ready_s, 1),
        "service": figures,
        "exit_code": code,
        "bare_esm2_tokens_per_s": [round(rate) for rate in bare.esm2],
        "bare_score_tokens_per_s": [round(rate) for rate in bare.score],
        "share_of_esm2": round(figures["tokens_per_s"] / esm2, 4),
        "share_of_score": round(figures["tokens_per_s"] / score, 4),
        "both_models_against_esm2": round(esm2 / score, 4),
    }


def _after(serve: Serve, done: Synchronized[int], seconds_: float) -> Look:
    """The counters so many seconds after something has been answered; tells the publisher how far the service is."""
    end = None
    given_up = time.monotonic() + _WAIT_S
    while True:
        look = Look.now(serve)
        done.value = int(look.total("vnp_records_total"))
        if end is None and done.value:
            end = look.at + seconds_
        if end is not None and look.at >= end:
            return look
        if look.at > given_up or serve.process.poll() is not None:
            raise RuntimeError(f"the service answers nothing:\n{serve.log.read_text()[-2000:]}")
        time.sleep(_LOOK_S)


def loop_case(case: Case, folder: Path, length_s: float, ahead: int) -> dict[str, Any]:
    """The plain loop in place of the service: records a second, by what it has committed."""
    precision = case.precision.removeprefix(LOOP)
    with embedded_broker(folder) as bootstrap:
        settings = {"bootstrap": bootstrap, "group": "loop", "source": TOPICS[0], "sink": TOPICS[1]}
        settings |= {"model": str(case.path), "precision": precision, "records": str(LOOP_RECORDS)}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        arguments.append("--by-length")  # the records differ little
        loop = Child(["benchmarks.loops.plain", *arguments], folder / "loop.log", {})
        committed = Committed(bootstrap, "loop", TOPICS[0], PARTITIONS)
        try:
            loop.ready()
            with publishing(bootstrap, ahead) as done:
                looks: list[tuple[float, int]] = []
                end = time.monotonic() + _WAIT_S
                while not looks or looks[-1][0] - looks[0][0] < length_s:
                    done.value = sum(committed.offsets())
                    now = time.monotonic()
                    # From one commit to another, since there are few.
                    if done.value and (not looks or done.value > looks[-1][1]):
                        looks.append((now, done.value))
                    if now > end or loop.process.poll() is not None:
                        raise RuntimeError(f"the loop answers too little:\n{loop.log.read_text()[-2000:]}")
                    time.sleep(_LOOK_S / 5)
            loop.stop()
        finally:
            committed.close()
            loop.close()
    return {
        "case": f"{case.model} {precision}",
        "records_at_once": LOOP_RECORDS,
        "records_per_s": round(records_per_s(looks[0], looks[-1]), 1),
    }


def cases(wanted: Sequence[str], bundle: Path | None, folder: Path) -> Iterator[Case]:
    """The cases, each with its bundle, which is written when the first case wants it."""
    written: dict[str, Path] = {"nano": find_bundle("nano")}
    for each in wanted:
        model, _, precision = each.partition(":")
        if model not in written:
            path = bundle or folder / model
            if not path.exists():
                random_bundle(path, model)
            written[model] = path
        yield Case(model, precision or "auto", written[model])


def main() -> None:
    """Command line."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = ["3B:fp16", "nano:fp16"] if gpu else ["nano:fp32"]
    parser.add_argument("--case", nargs="+", default=usual, metavar="MODEL:PRECISION")
    parser.add_argument("--seconds", type=float, default=12.0, help="of the window")
    parser.add_argument(
        "--ahead", type=int, default=30_000 if gpu else 3000, help="records that wait in Kafka"
    )
    parser.add_argument("--bundle", type=Path, help="of the shape: written if it is not there")
    parser.add_argument(
        "--folder", type=Path, default=RESULTS, help="where e2e.json, or e2e-gpu.json, is written"
    )
    options = parser.parse_args()
    if unknown := {each.partition(":")[0] for each in options.case} - SHAPES.keys():
        raise SystemExit(f"unknown models {', '.join(sorted(unknown))}: there are {', '.join(SHAPES)}")
    result: dict[str, Any] = {"about": about(("flash_attn",)), "cases": [], "loops": [], NOT_RUN: {}}
    with tempfile.TemporaryDirectory() as name:
        for number, case in enumerate(cases(options.case, options.bundle, Path(name))):
            folder = Path(name) / str(number)
            folder.mkdir()
            is_loop = case.precision.startswith(LOOP)
            run = loop_case if is_loop else serve_case
            try:
                found = run(case, folder, options.seconds, options.ahead)
            except (CoreError, RuntimeError, AssertionError) as error:
                lines = str(error).strip().splitlines()
                result[NOT_RUN][f"{case.model} {case.precision}"] = " ".join(
                    dict.fromkeys((lines[0], lines[-1]))
                )
                print(error, flush=True)
            else:
                result["loops" if is_loop else "cases"].append(found)
                print(found, flush=True)
            save("e2e-gpu" if gpu else "e2e", result, options.folder)


if __name__ == "__main__":
    main()
