"""The examples in Python, Java and Go are built and run against the running service on a real broker.

With a real schema registry and without one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas import SequenceRecord, decode_record
from tests.support.harness import ROOT, NoopServe, serving, virnucpro
from tests.support.kafka.job import UNIT, Job
from tests.support.registry import ApicurioRegistry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLES, AVSC = ROOT / "examples", ROOT / "schemas" / "avsc"
RECORDS = [
    SequenceRecord(f"r{number}", UNIT * (1 + number % 3), "of the examples" if number % 2 else None)
    for number in range(20)
]
_BUILD_S, _RUN_S = 600, 100


class NoToolchain(RuntimeError):
    """The examples in one language cannot be built on this machine; the message says why."""


@dataclass(frozen=True)
class Programs:
    """The commands that publish and read, without their arguments."""

    publish: Sequence[str | Path]
    read: Sequence[str | Path]


def python(_: Path) -> Programs:
    folder = EXAMPLES / "python"
    return Programs([sys.executable, folder / "producer.py"], [sys.executable, folder / "consumer.py"])


def java(folder: Path) -> Programs:
    needed("java", "javac", "mvn")
    source = shutil.copytree(EXAMPLES / "java", folder / "java", ignore=shutil.ignore_patterns("target"))
    goals = ["compile", "dependency:copy-dependencies"]
    built = build(["mvn", "-B", "-q", "-o", *goals], source)
    if built.returncode:  # what Maven has not fetched before is not there offline
        built = build(["mvn", "-B", "-q", *goals], source)
    said = built.stdout + built.stderr
    assert "COMPILATION ERROR" not in said, said
    if built.returncode:
        raise NoToolchain(f"Maven cannot fetch what they need: {said[:500]}")
    command = ["java", "-cp", f"{source}/target/classes:{source}/target/dependency/*"]
    return Programs([*command, "PublishSequences"], [*command, "ReadPredictions"])


def go(folder: Path) -> Programs:
    needed("go")
    fetched = build(["go", "mod", "download"], EXAMPLES / "go")
    if fetched.returncode:
        raise NoToolchain(f"Go cannot fetch what they need: {fetched.stderr[:500]}")
    built = build(["go", "build", "-mod=readonly", "-o", f"{folder}/", "./..."], EXAMPLES / "go")
    assert built.returncode == 0, built.stderr
    return Programs([folder / "producer"], [folder / "consumer"])


def needed(*tools: str) -> None:
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        raise NoToolchain(f"{' and '.join(absent)} not found")


def build(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_BUILD_S, check=False)


def run(command: Sequence[str | Path], *arguments: str | Path) -> str:
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=_RUN_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module", params=[python, java, go], ids=lambda language: language.__name__)
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    language: Callable[[Path], Programs] = request.param
    try:
        return language(tmp_path_factory.mktemp("build"))
    except NoToolchain as reason:
        pytest.skip(f"no toolchain for the examples in {language.__name__} here: {reason}")


def answered(programs: Programs, job: Job, folder: Path, *registry: str, **variables: str) -> None:
    """Publish by one program and read the answers by the other, with the service between."""
    fasta = folder / "reads.fasta"
    headers = [f"{record.id} {record.description}" if record.description else record.id for record in RECORDS]
    fasta.write_text(
        "".join(f">{header}\n{record.sequence}\n" for header, record in zip(headers, RECORDS, strict=True))
    )
    with serving(folder / "serve.log", kind=NoopServe, **job.worker(0), **variables):
        sequences, predictions = AVSC / "sequence_record.avsc", AVSC / "prediction.avsc"
        run(programs.publish, job.bootstrap, f"{job.name}.in", sequences, fasta, *registry)
        count = str(len(RECORDS))
        printed = run(programs.read, job.bootstrap, f"{job.name}.out", predictions, count, *registry)
    assert sorted(printed.splitlines()) == sorted(f"{record.id}\tvirus\t0.75" for record in RECORDS)
    # Without a registry's schema an id is taken for that of the current schema, which it is.
    published = {message.key(): decode_record(message.value()) for message in job.read_all("in")}
    assert published == {record.id.encode(): record for record in RECORDS}
    assert job.read_all("dlq") == []
    marks = {message.value()[:1] for topic in ("in", "out") for message in job.read_all(topic)}
    assert marks == ({b"\x00"} if registry else {b"\xc3"})


def test_records_of_the_producer_are_answered_and_the_consumer_reads_the_predictions(
    programs: Programs, job: Job, tmp_path: Path
):
    answered(programs, job, tmp_path)


def test_with_a_schema_registry_all_is_in_confluent_framing(
    programs: Programs, job: Job, registry: ApicurioRegistry, tmp_path: Path
):
    variables = {"VIRNUCPRO_SCHEMA_REGISTRY_URL": registry.url}
    done = virnucpro("schemas", "register", "--apply", **job.variables, **variables)
    assert done.returncode == 0, done.stderr
    answered(programs, job, tmp_path, registry.url, **variables)


def test_the_producers_choose_the_same_partition_for_a_key(programs: Programs, job: Job, tmp_path: Path):
    fasta = tmp_path / "reads.fasta"
    fasta.write_text("".join(f">{record.id}\n{record.sequence}\n" for record in RECORDS))
    run(programs.publish, job.bootstrap, f"{job.name}.in", AVSC / "sequence_record.avsc", fasta)
    chosen = {message.key().decode(): message.partition() for message in job.read_all("in")}
    assert chosen == {record.id: murmur2(record.id.encode()) % 4 for record in RECORDS}


def murmur2(key: bytes) -> int:
    """Kafka's hash of a key, without its sign (org.apache.kafka.common.utils.Utils)."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for start in range(0, whole, 4):
        k = int.from_bytes(key[start : start + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF
