"""The examples in Python, Java and Go are built and run against the running service on a real broker."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas import SequenceRecord, decode_record
from tests.support.harness import ROOT, NoopServe, serving
from tests.support.kafka.job import UNIT, Job

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


def test_records_of_the_producer_are_answered_and_the_consumer_reads_the_predictions(
    programs: Programs, job: Job, tmp_path: Path
):
    fasta = tmp_path / "reads.fasta"
    headers = [f"{record.id} {record.description}" if record.description else record.id for record in RECORDS]
    fasta.write_text(
        "".join(f">{header}\n{record.sequence}\n" for header, record in zip(headers, RECORDS, strict=True))
    )
    with serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0)):
        run(programs.publish, job.bootstrap, f"{job.name}.in", AVSC / "sequence_record.avsc", fasta)
        printed = run(
            programs.read, job.bootstrap, f"{job.name}.out", AVSC / "prediction.avsc", str(len(RECORDS))
        )
    assert sorted(printed.splitlines()) == sorted(f"{record.id}\tvirus\t0.75" for record in RECORDS)
    published = {message.key(): decode_record(message.value()) for message in job.read_all("in")}
    assert published == {record.id.encode(): record for record in RECORDS}
    assert job.read_all("dlq") == []


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
