"""The service under overload for a long time: whether its memory, files, threads and metric series stay bounded.

    python -m benchmarks.soak [--minutes 30] [--real-model] [--report FILE]

Exactly once, on a real Kafka (tests/support/kafka/kraft.py: Java, Maven), with all other settings at their
defaults. The model
computes nothing and takes its time (tests/support/noop_service.py; --real-model: the bundled one instead),
and the input is always `--ahead` records ahead of it, seven tenths of them in one partition: an answered record is
published again. One record in a hundred is poison: undecodable, invalid, or one that makes the model fail. The topics
drop old records, long after the service has read them.

Every five seconds the service is looked at from outside, by /proc and /metrics. The figures leave out the first five
minutes (a third of a shorter run), in which caches and the allocator's arenas fill. The growth is a line through all
samples by least squares; its standard error takes them as independent, which samples of one process are not quite.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.delivery import PARTITIONS, Committed, Stream, kafka
from consumer.config.settings import load_settings
from tests.support.harness import TOPICS, NoopServe, Serve, serving
from tests.support.kafka.kraft import KraftBroker

GROUP = "soak"
SAMPLE_S = 5.0
REFILL_S = 0.5
WARM_UP_S = 300.0
POISON_EVERY = 100
SHARES = (0.7, 0.1, 0.1, 0.1)
"""Of the records ahead, for each partition."""
_RETAINED_BYTES = 4096  # for each record ahead, several times its size: none is lost unread


@dataclass(frozen=True)
class Sample:
    """One look at the service; `busy_s` is the time that the model had a batch, since it started like the others."""

    seconds: float
    rss_mib: float
    anonymous_mib: float
    fds: int
    threads: int
    series: int
    inflight_records: int
    inflight_bytes: int
    queued_tokens: int
    answered: int
    busy_s: float
    held_s: float
    paused_s: float
    lag: int


@dataclass(frozen=True)
class Line:
    """A slope, in units an hour, and its standard error."""

    per_hour: float
    standard_error: float


def slope(points: Sequence[tuple[float, float]]) -> Line:
    """The line through (seconds, value) by least squares.

    Raises:
        ValueError: fewer than three different moments say nothing of the error.
    """
    if len({x for x, _ in points}) < 3:
        raise ValueError("a slope with its error needs three samples")
    count = len(points)
    mean_x, mean_y = (sum(point[axis] for point in points) / count for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    residual = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in points)
    return Line(rise * 3600, math.sqrt(residual / (count - 2) / spread) * 3600)


def memory_and_threads(status: str) -> tuple[float, float, int]:
    """Resident MiB, the anonymous part of them, and threads, from the text of /proc/PID/status."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    rss, anonymous = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
    return rss, anonymous, int(fields["Threads"])


def missing(lags: Sequence[int], ahead: int) -> list[int]:
    """How many records each partition needs, to be as far ahead as it should be."""
    return [max(0, round(ahead * share) - lag) for share, lag in zip(SHARES, lags, strict=True)]


def summary(
    samples: Sequence[Sample], budgets: dict[str, int], warm_up_s: float = WARM_UP_S
) -> dict[str, object]:
    """The figures of a soak; two numbers together are the lowest and the highest.

    Args:
        budgets: what `inflight_records`, `inflight_bytes` and `queued_tokens` may be at most.
        warm_up_s: what comes earlier counts for the peaks in flight alone.

    Raises:
        ValueError: fewer than three samples after the warming up.
    """
    settled = [sample for sample in samples if sample.seconds >= warm_up_s]
    growth = {
        name: asdict(slope([(sample.seconds, getattr(sample, name)) for sample in settled]))
        for name in ("rss_mib", "anonymous_mib")
    }
    first, last = settled[0], settled[-1]
    seconds = last.seconds - first.seconds
    return {
        "samples_counted": len(settled),
        "growth_an_hour": growth,
        **{
            name: [extreme(getattr(sample, name) for sample in settled) for extreme in (min, max)]
            for name in ("rss_mib", "fds", "threads", "series", "lag")
        },
        "records_per_s": (last.answered - first.answered) / seconds,
        **{
            f"{name}_share": (getattr(last, f"{name}_s") - getattr(first, f"{name}_s")) / seconds
            for name in ("busy", "held", "paused")
        },
        "peaks": {
            name: {"peak": max(getattr(sample, name) for sample in samples), "budget": budget}
            for name, budget in budgets.items()
        },
    }


class Overload:
    """Keeps the input topic far ahead of the group."""

    def __init__(self, broker: KraftBroker, ahead: int) -> None:
        self._stream = Stream(broker.bootstrap_servers)
        self._committed = Committed(broker.bootstrap_servers, GROUP)
        self._ahead = ahead
        self._published = [0] * PARTITIONS
        self._poisoned = 0

    def refill(self) -> int:
        """Publish what is missing; returns how far the input was ahead before."""
        offsets = self._committed.offsets()
        lags = [sent - done for sent, done in zip(self._published, offsets, strict=True)]
        for partition, count in enumerate(missing(lags, self._ahead)):
            for _ in range(count):
                number = sum(self._published)
                self._stream.send(partition, f"k{number}", self._value(number))
                self._published[partition] += 1
        self._stream.flush()
        return sum(lags)

    def close(self) -> None:
        self._committed.close()

    def _value(self, number: int) -> bytes:
        if number % POISON_EVERY:
            return self._stream.value(f"r{number}")
        self._poisoned += 1
        match self._poisoned % 3:
            case 0:
                return f"junk {number}".encode()
            case 1:
                return self._stream.value("")  # without an id: refused by validation
            case _:
                return self._stream.value(f"r{number}!fails")


def look(serve: Serve, begun: float, lag: int) -> Sample:
    """One sample; raises OSError when the process is not there any more."""
    process = Path(f"/proc/{serve.process.pid}")
    rss, anonymous, threads = memory_and_threads((process / "status").read_text())
    families = text_string_to_metric_families(serve.get("/metrics")[1])
    series = [sample for family in families for sample in family.samples]
    values = {(sample.name, *sample.labels.values()): sample.value for sample in series}
    return Sample(
        seconds=round(time.monotonic() - begun, 3),
        rss_mib=rss,
        anonymous_mib=anonymous,
        fds=sum(1 for _ in (process / "fd").iterdir()),
        threads=threads,
        series=len(series),
        inflight_records=int(values["vnp_inflight_records",]),
        inflight_bytes=int(values["vnp_inflight_bytes",]),
        queued_tokens=int(values["vnp_queued_tokens",]),
        answered=int(sum(values["vnp_records_total", kind] for kind in ("predicted", "dead_lettered"))),
        busy_s=values["vnp_batch_seconds_sum",],
        held_s=values["vnp_backpressure_seconds_total", "hold"],
        paused_s=values["vnp_backpressure_seconds_total", "pause"],
        lag=lag,
    )


def watch(
    serve: Serve, overload: Overload, seconds: float, console: Console
) -> tuple[list[Sample], str | None]:
    """Overload the service for so long; the samples, and why it ended early if it did."""
    samples: list[Sample] = []
    columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=seconds)
        begun = time.monotonic()
        try:
            while (elapsed := time.monotonic() - begun) < seconds:
                if (code := serve.process.poll()) is not None:
                    return samples, f"the service ended with exit code {code}"
                lag = overload.refill()
                if elapsed >= len(samples) * SAMPLE_S:
                    samples.append(look(serve, begun, lag))
                    status = (
                        f"{samples[-1].rss_mib:.1f} MiB, {samples[-1].answered:,} answered, {lag:,} ahead"
                    )
                    progress.update(task, completed=elapsed, description=status)
                time.sleep(REFILL_S)
        except (OSError, RuntimeError, KafkaException) as error:
            return samples, f"{type(error).__name__}: {error}"
    return samples, None


def soak(
    broker: KraftBroker, folder: Path, options: argparse.Namespace, console: Console
) -> dict[str, object]:
    """One soak; everything that is reported of it."""
    retained = max(64 << 20, options.ahead * _RETAINED_BYTES)
    limits = {"retention.bytes": str(retained), "segment.bytes": str(16 << 20)}
    broker.create_topics(dict.fromkeys(TOPICS, PARTITIONS), **limits)
    variables = {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "VIRNUCPRO_GROUP_ID": GROUP,
        "VIRNUCPRO_DELIVERY": "exactly_once",
        "VIRNUCPRO_STATE_DIR": str(folder / "state"),
        "NOOP_TOKENS_PER_S": str(options.tokens_per_s),
    }
    kind = Serve if options.real_model else NoopServe
    seconds, overload = options.minutes * 60, Overload(broker, options.ahead)
    try:
        overload.refill()
        with serving(folder / "serve.log", kind=kind, **variables) as serve:
            samples, failure = watch(serve, overload, seconds, console)
            code = serve.stop() if failure is None else serve.process.poll()
            logged = serve.log.read_text()  # JSON, as it goes to no terminal
    finally:
        overload.close()
    defaults, token_budget = load_settings({}), re.findall(r'"token_budget": ?(\d+)', logged)[0]
    budgets = {
        "inflight_records": defaults.max_inflight_records,
        "inflight_bytes": defaults.max_inflight_bytes,
        "queued_tokens": 4 * int(token_budget),  # where VIRNUCPRO_MAX_INFLIGHT_TOKENS is unset
    }
    figures = summary(samples, budgets, min(WARM_UP_S, seconds / 3)) if failure is None else {}
    return {
        "model": "nano" if options.real_model else f"noop, {options.tokens_per_s:,} tokens/s",
        "minutes": options.minutes,
        "ahead": options.ahead,
        "failure": failure,
        "exit_code": code,  # 1 where a slow model had no time to finish what was in flight
        **figures,
        "logged": Counter(re.findall(r'"event": ?"([^"]+)"', logged)).most_common(30),
        "samples": [asdict(sample) for sample in samples],
    }


def main() -> int:
    """Command line; exit code 1 if the service did not live through it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--ahead", type=int, default=50_000, help="records that the input is ahead")
    parser.add_argument(
        "--tokens-per-s", type=int, default=200_000, help="of the model that computes nothing"
    )
    parser.add_argument("--real-model", action="store_true", help="the bundled model instead")
    parser.add_argument("--report", type=Path, help="a JSON file for all figures and samples")
    options = parser.parse_args()
    if options.minutes < 0.5:
        parser.error("--minutes: half a minute is the least that gives a slope")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service and the broker end too
    with kafka() as (broker, folder):
        report = soak(broker, folder, options, console := Console())
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    del report["samples"]
    console.print_json(json.dumps(report))
    return 1 if report["failure"] else 0


if __name__ == "__main__":
    sys.exit(main())
