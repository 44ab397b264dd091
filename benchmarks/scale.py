"""Several processes in one consumer group: `make bench-scale`.

    python -m benchmarks.scale [--seconds 8] [--folder DIR]
    python -m benchmarks.scale --gpus MODEL:PRECISION [--bundle FOLDER]

* Workers: 1, 2 and 4 services whose model sleeps (tests/support/noop_service.py, 200 records a second each), so that
  nothing but the service is measured; exactly once, a real Kafka, 12 partitions, a backlog. The rate is that of the
  committed offsets, from when every worker has its partitions.
* A member that joins: records are offered in time at half of what one worker answers, and a second worker starts. The
  latency of the partitions that the first one keeps says whether joining stalls them.
* With `--gpus`: one service on one GPU, then one on each of two, in one group on the embedded broker, with reads of 500
  bases; needs two GPUs, and neither Java nor Maven.

Needs Java and Maven for the broker of the first two (tests/support/kafka/kraft.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from confluent_kafka.admin import AdminClient

from benchmarks.delivery import Committed, Stream, kafka
from benchmarks.e2e import Case, Look, cases, embedded_broker, publishing
from benchmarks.fairness import Answers
from benchmarks.machine import NOT_RUN, RESULTS, about, save
from schemas import SequenceRecord, encode_record
from tests.support.harness import TOPICS, NoopServe, Serve, serving
from tests.support.kafka.kraft import KraftBroker

PARTITIONS = 12
WORKERS = (1, 2, 4)
RATE = 200
"""Records a second of one worker: a record of the model that sleeps has 100 tokens."""
_GROUP_S = 60.0
_START_S = 15.0
"""Seconds of work that the workers may do before all of them share the partitions."""
_SETTLE_S = 4.0
"""From when the broker says that all have their partitions; they learn it within a second."""
_JOIN_S = 4.0
_WARM_S = 4.0


def settings(broker: KraftBroker, name: str, worker: int) -> dict[str, str]:
    """Of one worker of the group `name`."""
    source, output, letters = (f"{name}.{topic}" for topic in TOPICS)
    return {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "VIRNUCPRO_GROUP_ID": name,
        "VIRNUCPRO_INSTANCE_ID": f"worker-{worker}",
        "VIRNUCPRO_INPUT_TOPIC": source,
        "VIRNUCPRO_OUTPUT_TOPIC": output,
        "VIRNUCPRO_DLQ_TOPIC": letters,
        "VIRNUCPRO_TOKEN_BUDGET": "4000",
        "NOOP_TOKENS_PER_S": str(100 * RATE),
    }


def prepared(broker: KraftBroker, name: str) -> Stream:
    """Topics of its own for a group, and a publisher."""
    broker.create_topics(dict.fromkeys((f"{name}.{topic}" for topic in TOPICS), PARTITIONS))
    return Stream(broker.bootstrap_servers, f"{name}.{TOPICS[0]}", linger_ms=0)


def assignments(admin: AdminClient, group: str) -> dict[str, set[int]]:
    """The partitions of each member of a group that has any, by its instance id."""
    found = admin.describe_consumer_groups([group])[group].result(30)
    parts = {
        member.client_id.removeprefix("virnucpro-"): {
            each.partition for each in member.assignment.topic_partitions
        }
        for member in found.members
    }
    return {client: each for client, each in parts.items() if each}


def await_members(admin: AdminClient, group: str, members: int) -> dict[str, set[int]]:
    """Wait until the partitions are spread over so many members."""
    end = time.monotonic() + _GROUP_S
    while True:
        found = assignments(admin, group)
        if len(found) == members and sum(map(len, found.values())) == PARTITIONS:
            return found
        if time.monotonic() > end:
            raise RuntimeError(f"{members} members do not share the partitions: {found}")
        time.sleep(0.1)


def rate_of(broker: KraftBroker, folder: Path, workers: int, seconds: float) -> float:
    """Records a second that so many workers commit of a backlog."""
    name = f"scale-{workers}"
    stream = prepared(broker, name)
    backlog = round(workers * RATE * (seconds + _START_S))
    for number in range(backlog):
        value = encode_record(SequenceRecord(f"r{number}", "ACGT" * 25))
        stream.send(number % PARTITIONS, f"k{number}", value)
    stream.flush()
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    progress = Committed(broker.bootstrap_servers, name, f"{name}.{TOPICS[0]}", PARTITIONS)
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        for worker in range(workers):
            # A worker begins to read as soon as it is ready; all of them are, before the clock starts.
            log = folder / f"{name}.{worker}.log"
            stack.enter_context(serving(log, kind=NoopServe, **settings(broker, name, worker)))
        await_members(admin, name, workers)
        time.sleep(_SETTLE_S)
        first, begun = sum(progress.offsets()), time.monotonic()
        time.sleep(seconds)
        last, ended = sum(progress.offsets()), time.monotonic()
    if last >= backlog:
        raise RuntimeError("the backlog ended before the clock: publish more")
    return (last - first) / (ended - begun)


def joining(broker: KraftBroker, folder: Path) -> dict[str, Any]:
    """Latencies of the partitions that the first worker keeps, and of those that move, while another joins."""
    name = "joining"
    stream = prepared(broker, name)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    due: dict[str, tuple[float, int]] = {}
    topics = (f"{name}.{TOPICS[1]}", f"{name}.{TOPICS[2]}")
    with (
        serving(folder / "first.log", kind=NoopServe, **settings(broker, name, 0)),
        Answers(broker.bootstrap_servers, PARTITIONS, topics) as answers,
    ):
        await_members(admin, name, 1)

        def offer(until: float) -> None:
            at = time.monotonic()
            while at < until:
                time.sleep(max(0.0, at - time.monotonic()))
                number = len(due)
                key = f"k{number}"
                due[key] = (at, number % PARTITIONS)
                stream.send(number % PARTITIONS, key, encode_record(SequenceRecord(key, "ACGT" * 25)))
                at += 2 / RATE

        offer(time.monotonic() + _JOIN_S)
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            second = NoopServe(folder / "second.log", **settings(broker, name, 1))
            stack.callback(second.close)
            offer(began + _JOIN_S)  # meanwhile it starts and joins
            second.wait_ready()
            shares = await_members(admin, name, 2)
            offer(time.monotonic() + 1.0)
            end = time.monotonic() + _GROUP_S
            while due.keys() - answers.seen.keys():
                if time.monotonic() > end:
                    raise RuntimeError("records are not answered while a member joins")
                time.sleep(0.05)

    def longest(partitions: set[int], joined: bool) -> float:
        waits = [
            answers.seen[key] - at
            for key, (at, part) in due.items()
            if part in partitions and (at >= began) == joined
        ]
        return round(max(waits), 3)

    kept, moved = shares["worker-0"], shares["worker-1"]
    return {
        "partitions": {"kept": len(kept), "moved": len(moved)},
        "before_longest_s": longest(kept | moved, joined=False),
        "kept_longest_s": longest(kept, joined=True),
        "moved_longest_s": longest(moved, joined=True),
    }


def gpu_rate(case: Case, folder: Path, devices: Sequence[int], seconds: float, ahead: int) -> float:
    """Tokens a second of one service on each of these GPUs, in one group."""
    with embedded_broker(folder) as bootstrap, contextlib.ExitStack() as stack:
        services = []
        for device in devices:
            variables = {
                "VIRNUCPRO_MODEL": str(case.path),
                "VIRNUCPRO_PRECISION": case.precision,
                "VIRNUCPRO_DEVICE": f"cuda:{device}",
                "VIRNUCPRO_INSTANCE_ID": f"gpu-{device}",
                "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
                "VIRNUCPRO_DELIVERY": "at_least_once",
                "VIRNUCPRO_STATE_DIR": str(folder / f"state-{device}"),
            }
            services.append(Serve(folder / f"gpu-{device}.log", **variables))
            stack.callback(services[-1].close)
        for each in services:
            each.wait_ready()
        with publishing(bootstrap, ahead * len(devices)) as done:
            looks: list[list[Look]] = []
            for pause in (_WARM_S, seconds):
                end = time.monotonic() + pause
                while time.monotonic() < end:
                    now = [Look.now(each) for each in services]
                    done.value = int(sum(look.total("vnp_records_total") for look in now))
                    time.sleep(0.25)
                looks.append(now)
        rates: list[float] = [
            (last.total("vnp_tokens_total") - first.total("vnp_tokens_total")) / (last.at - first.at)
            for first, last in zip(*looks, strict=True)
        ]
    print([round(rate) for rate in rates], flush=True)
    return sum(rates)


def gpus(wanted: str, bundle: Path | None, folder: Path, seconds: float, ahead: int) -> dict[str, Any]:
    """One GPU against two."""
    found: dict[str, Any] = {}
    for case in cases([wanted], bundle, folder):
        rates = {}
        for devices in ([0], [0, 1]):
            place = folder / f"gpus-{len(devices)}"
            place.mkdir()
            rates[str(len(devices))] = round(gpu_rate(case, place, devices, seconds, ahead))
        found = {"case": f"{case.model} {case.precision}", "tokens_per_s": rates}
        found["times"] = round(rates["2"] / rates["1"], 3)
    return found


@contextlib.contextmanager
def kept(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result so far, since both ways of calling write one file; saved at the end."""
    path = options.folder / "scale.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    yield result
    print(save("scale", result, options.folder).read_text(encoding="utf-8"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each rate")
    parser.add_argument("--gpus", metavar="MODEL:PRECISION", help="measure two GPUs instead")
    parser.add_argument("--ahead", type=int, default=30_000, help="records that wait, for each GPU")
    parser.add_argument("--bundle", type=Path, help="of the shape: written if it is not there")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where scale.json is written")
    options = parser.parse_args()
    devices = torch.cuda.device_count()
    if options.gpus and devices < 2:
        raise SystemExit(f"--gpus needs two GPUs: torch sees {devices}")
    with kept(options) as result:
        if options.gpus:
            with tempfile.TemporaryDirectory() as name:
                result["gpus"] = {"about": about()} | gpus(
                    options.gpus, options.bundle, Path(name), options.seconds, options.ahead
                )
            result.setdefault(NOT_RUN, {}).pop("two GPUs", None)
            return
        result["about"] = about()
        with kafka() as (broker, folder):
            rates = {workers: rate_of(broker, folder, workers, options.seconds) for workers in WORKERS}
            result["workers"] = {
                str(workers): {
                    "records_per_s": round(rate, 1),
                    "of_linear": round(rate / (workers * rates[1]), 4),
                }
                for workers, rate in rates.items()
            }
            result["joining"] = joining(broker, folder)
        if "gpus" not in result:
            why = (
                f"this machine has {devices} GPUs; on one with two: python -m benchmarks.scale --gpus 3B:fp16"
            )
            result[NOT_RUN] = {"two GPUs": why}


if __name__ == "__main__":
    main()
