"""How long an answer takes, by offered load: `make bench-latency`.

    python -m benchmarks.latency [--seconds 6] [--loads 10 30 ...] [--folder DIR]

A real Kafka, the bundled model on this machine's processors, records of 60 to 500 bases. First the rate is measured at
which the service answers a backlog: its capacity. Then records are *offered in time* at shares of that: each has a
moment at which it is due, drawn before (a Poisson process), and is sent then whether or not others were answered. Its
latency counts from that moment until a read_committed reader has the prediction, so a service that falls behind is not
spared. With exactly once, and in the other ways that `WAYS` lists.

Needs Java and Maven for the broker (tests/support/kafka/kraft.py).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.delivery import PARTITIONS, Stream, kafka
from benchmarks.fairness import Answers, batches
from benchmarks.machine import RESULTS, about, save
from benchmarks.records import MIXED, partition_of, reads
from schemas import SequenceRecord, encode_record
from tests.support.harness import TOPICS, Serve, serving
from tests.support.kafka.kraft import KraftBroker

WAYS: dict[str, dict[str, str]] = {
    "exactly once": {},
    "at least once": {"VIRNUCPRO_DELIVERY": "at_least_once"},
    "exactly once, for latency": {"VIRNUCPRO_PRIORITY": "latency"},
}
"""Variables of the service, by name."""
LOADS = (10, 30, 50, 70, 80, 90, 95)
_BACKLOG_S = 3.0
_WAIT_S = 120.0


class Offered:
    """Sends records when they are due, and waits for their answers."""

    def __init__(self, stream: Stream, answers: Answers) -> None:
        self._stream, self._answers = stream, answers
        self._records = reads(1 << 30, *MIXED)
        self._number = 0

    def backlog(self, count: int) -> float:
        """Records a second that are answered of so many published at once, from the second half of the answers."""
        keys = [self._send() for _ in range(count)]
        self._await(keys)
        at = sorted(self._answers.seen[key] for key in keys)
        return (count // 2) / (at[-1] - at[count // 2 - 1])

    def at_rate(self, rate: float, seconds: float, seed: int) -> np.ndarray:
        """Latencies, in seconds, of records at that rate."""
        gaps = np.random.default_rng(seed).exponential(1 / rate, max(20, round(rate * seconds)))
        due = time.monotonic() + 0.1 + np.cumsum(gaps)
        keys = []
        for moment in due.tolist():
            time.sleep(max(0.0, moment - time.monotonic()))
            keys.append(self._send())
        self._await(keys)
        return np.array([self._answers.seen[key] - moment for key, moment in zip(keys, due, strict=True)])

    def _send(self) -> str:
        _, letters = next(self._records)
        self._number += 1
        key = f"k{self._number}"
        self._stream.send(
            partition_of(self._number, PARTITIONS), key, encode_record(SequenceRecord(key, letters))
        )
        return key

    def _await(self, keys: Sequence[str]) -> None:
        end = time.monotonic() + _WAIT_S
        missing = set(keys)
        while missing := missing - self._answers.seen.keys():
            if time.monotonic() > end:
                raise RuntimeError(f"{len(missing)} records are not answered within {_WAIT_S:.0f} s")
            time.sleep(0.02)


def measure(
    broker: KraftBroker, folder: Path, way: str, loads: Sequence[int], seconds: float
) -> dict[str, Any]:
    """One way: its capacity, and the latencies at each load."""
    name = way.replace(",", "").replace(" ", "-")
    source, output, letters = (f"{name}.{topic}" for topic in TOPICS)
    broker.create_topics(dict.fromkeys((source, output, letters), PARTITIONS))
    stream = Stream(broker.bootstrap_servers, source, linger_ms=0)
    settings = {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "VIRNUCPRO_DEVICE": "cpu",
        "VIRNUCPRO_GROUP_ID": name,
        "VIRNUCPRO_INPUT_TOPIC": source,
        "VIRNUCPRO_OUTPUT_TOPIC": output,
        "VIRNUCPRO_DLQ_TOPIC": letters,
    }
    with (
        serving(folder / f"{name}.log", kind=Serve, **(settings | WAYS[way])) as serve,
        Answers(broker.bootstrap_servers, topics=(output, letters)) as answers,
    ):
        offered = Offered(stream, answers)
        first = offered.backlog(400)
        full = batches(serve)
        capacity = offered.backlog(max(400, round(2 * _BACKLOG_S * first)))
        forward_s = _mean_s(full, batches(serve))
        rows = []
        for load in loads:
            before = batches(serve)
            waits = offered.at_rate(capacity * load / 100, seconds, seed=load)
            rows.append(
                {
                    "load": load,
                    "records": len(waits),
                    "p50_ms": round(float(np.quantile(waits, 0.5)) * 1000, 1),
                    "p99_ms": round(float(np.quantile(waits, 0.99)) * 1000, 1),
                    "longest_ms": round(float(waits.max()) * 1000, 1),
                    "batch_ms": round(_mean_s(before, batches(serve)) * 1000, 1),
                }
            )
            print(rows[-1], flush=True)
    return {
        "capacity_records_per_s": round(capacity, 1),
        "full_batch_ms": round(forward_s * 1000, 1),
        "loads": rows,
    }


def _mean_s(before: tuple[float, float], after: tuple[float, float]) -> float:
    """Mean seconds of the batches between two looks."""
    return (after[1] - before[1]) / max(1.0, after[0] - before[0])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    parser.add_argument("--loads", type=int, nargs="+", default=LOADS, help="in percent of the capacity")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where latency.json is written")
    options = parser.parse_args()
    result: dict[str, Any] = {"about": about(), "bases": list(MIXED), "seconds": options.seconds, "ways": {}}
    with kafka() as (broker, folder):
        for way in WAYS:
            print(way, flush=True)
            result["ways"][way] = measure(broker, folder, way, options.loads, options.seconds)
            save("latency", result, options.folder)


if __name__ == "__main__":
    main()
