"""Every command that README.md and docs/cli.md print is run as it is printed, on small files of their names."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from select import select

import pytest

from consumer.cli.demo.sample import sample_truth
from tests.support.checkpoints import save_classifier, trained_classifier
from tests.support.harness import ROOT, environment, produce, virnucpro
from tests.support.warm_commands import WarmCommands
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.scoring.calibration import Calibration
from virnucpro_core.sequence.fasta import read_sequences

PAGES = ("README.md", "docs/cli.md")
NOT_RUN = {
    "git clone <this repository> virnucpro-stream && cd virnucpro-stream": "needs a network",
    "make demo": "sets up .venv, then runs `virnucpro demo`, which docs/cli.md prints",
    "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 .venv/bin/virnucpro serve": "needs Kafka: tests/kafka runs it",
    "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 virnucpro serve": "needs Kafka: tests/kafka runs it",
}
NOT_RUN |= dict.fromkeys(
    (
        "virnucpro topics describe --bootstrap kafka:9092",
        "virnucpro topics check",
        "virnucpro topics ensure --partitions 12 --replication 3 --dry-run",
        "virnucpro topics ensure --partitions 12 --replication 3",
    ),
    "needs Kafka: tests/kafka/test_topics_command.py runs it",
)
NOT_RUN |= dict.fromkeys(
    (
        "VIRNUCPRO_SCHEMA_REGISTRY_URL=http://localhost:8081 virnucpro schemas check",
        "VIRNUCPRO_SCHEMA_REGISTRY_URL=http://localhost:8081 virnucpro schemas register --apply",
    ),
    "needs a schema registry: tests/integration/test_schema_registry.py runs it",
)
_COMMAND = re.compile(r"([A-Z_]+=\S+ )*((\.venv/bin/)?virnucpro [a-z]|zcat |make |git )")
_ADDRESS = re.compile(r"127\.0\.0\.1:(PORT|40001)")
_WORKS_ON = ("virnucpro", "zcat")
_END_S = 90.0


class Block:
    """An indented block of a page: the commands in it, and what each is shown to print."""

    def __init__(self, lines: list[str]) -> None:
        joined = "\n".join(lines).rstrip("\n").replace("\\\n", "").split("\n")
        self.lines = joined
        self.commands: list[str] = []
        self.shown: dict[str, list[str]] = {}
        is_console = any(line.startswith("$ ") for line in joined)
        for line in joined:
            if is_console and not line.startswith("$ "):
                self.shown[self.commands[-1]].append(line)
            elif is_console or _COMMAND.match(joined[0]):
                command = re.sub(r"\s+#.*", "", line.removeprefix("$ "))
                self.commands.append(command)
                self.shown[command] = []

    @property
    def is_python(self) -> bool:
        return self.lines[0].startswith(("from ", "import "))


def blocks(page: str) -> list[Block]:
    """The indented blocks of a page; each begins after an empty line."""
    found: list[list[str]] = [[]]
    before = ""
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("    ") and (found[-1] or not before):
            found[-1].append(line[4:])
        elif found[-1] and not line:
            found[-1].append("")
        elif found[-1]:
            found.append([])
        before = line
    return [Block(lines) for lines in found if any(lines)]


@pytest.fixture
def scratch(tmp_path: Path, warm: WarmCommands) -> Path:
    """A folder with the files that the pages name, real and small."""
    for folder in ("bin", ".venv/bin", "consumer", "bundles"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "consumer" / "data").symlink_to(ROOT / "consumer" / "data")
    for link in ("bin/virnucpro", ".venv/bin/virnucpro"):
        (tmp_path / link).symlink_to(warm.program)
    if shutil.which("jq") is None:  # what stands behind a pipe is not ours
        (tmp_path / "bin" / "jq").symlink_to("/bin/cat")
    truth = sample_truth()
    sample = [(name, text) for name, _, text in read_sequences(str(ROOT / "consumer/data/sample.fasta"))]
    reads = [
        (name, text)
        for label in ("virus", "others")
        for name, text in sorted(sample, key=lambda record: len(record[1]))
        if truth[name].label == label
    ]
    reads = reads[:8] + reads[-20:-12]
    fasta = "".join(f">{name}\n{text}\n" for name, text in reads)
    short = "".join(f">short{number}\n{'GCATTCGACCGA' * 5}\n" for number in range(40))
    fastq = "".join(f"@{name}\n{text}\n+\n{'I' * len(text)}\n" for name, text in reads[:2])
    (tmp_path / "reads.fasta").write_text(fasta)
    (tmp_path / "contigs.fasta").write_text(fasta)
    (tmp_path / "more.fasta").write_text(short)
    (tmp_path / "reads.fasta.gz").write_bytes(gzip.compress(fasta.encode()))
    (tmp_path / "sample_1.fa.gz").write_bytes(gzip.compress(fasta.encode()))
    (tmp_path / "sample_1.fq.gz").write_bytes(gzip.compress(fastq.encode()))
    (tmp_path / "truth.tsv").write_text(
        "id\tlabel\n" + "".join(f"{name}\t{truth[name].label}\n" for name, _ in reads)
    )
    nano = find_bundle("nano")
    shutil.copytree(nano, tmp_path / "bundles" / "virnucpro-500")
    calibrated = replace(
        Bundle.load(nano).manifest, calibration=Calibration(0.0, 1.0, 0.0, 0.0, most_chunks=1)
    )
    shutil.copytree(nano, tmp_path / "bundles" / "calibrated")
    (tmp_path / "bundles" / "calibrated" / "manifest.json").write_text(calibrated.to_json(), encoding="utf-8")
    save_classifier(trained_classifier(320, 16), tmp_path / "my_head.pth")
    return tmp_path


class Shell:
    """Runs the commands of a page in order, as a person does who has one service running."""

    def __init__(self, folder: Path, warm: WarmCommands, stack: ExitStack) -> None:
        self._folder, self._warm, self._stack = folder, warm, stack
        self._bootstrap = ""

    def run(self, command: str) -> str:
        """Run a command to its end, or start it and stop it as the page says; returns what it prints."""
        line = _ADDRESS.sub(self._bootstrap, command).removesuffix(" | head")  # which closes the pipe early
        if "train-head" in line:  # each of them makes the same folder
            shutil.rmtree(self._folder / "bundles" / "mine", ignore_errors=True)
        if re.search(r"virnucpro serve$", line):
            return self._serve(line)
        if "virnucpro watch" in line and not re.search("--count|--until-(idle|end)", line):
            return self._watch(line)
        process = self._start(line)
        out, error = process.communicate(timeout=_END_S)
        codes = self._warm.codes()
        assert codes, f"{command}: no command was run: {error}"
        assert set(codes) == {0}, f"{command}: exit codes {codes}: {error}"
        return out

    def _start(self, line: str) -> subprocess.Popen[str]:
        path = f"{self._folder / 'bin'}:{os.environ['PATH']}"
        variables = {"PATH": path, "VIRNUCPRO_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        variables["VIRNUCPRO_STATE_DIR"] = str(self._folder / "state")
        if re.search("publish|watch|dlq", line):  # the pages name the broker by the option or by this
            variables["VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS"] = self._bootstrap
        return subprocess.Popen(
            ["bash", "-c", line],
            cwd=self._folder,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _serve(self, line: str) -> str:
        process = self._start(line)
        assert process.stdout is not None
        self._stack.callback(self._end, process, signal.SIGTERM, 0)
        printed = process.stdout.readline()
        self._bootstrap = json.loads(printed)["bootstrap"]
        return printed

    def _watch(self, line: str) -> str:
        """Until it shows something, then Ctrl-C."""
        process = self._start(line)
        assert process.stdout is not None
        until = time.monotonic() + _END_S
        while not select([process.stdout], [], [], 0.3)[0]:
            assert time.monotonic() < until, f"{line} shows nothing"
            produce(
                self._bootstrap, [{"value": b"not a record"}]
            )  # a dead letter, for who watches from now on
        time.sleep(0.5)  # a client that is being made has no clean end
        return self._end(process, signal.SIGINT, 130)

    def _end(self, process: subprocess.Popen[str], number: int, code: int) -> str:
        if process.poll() is None:
            os.killpg(process.pid, number)
        try:
            out, error = process.communicate(timeout=_END_S)
        finally:
            process.kill()
        assert process.returncode == code, error
        self._warm.codes()
        return out


@pytest.fixture(scope="module")
def demo() -> str:
    """What `virnucpro demo` prints."""
    done = virnucpro("demo", COLUMNS="200", VIRNUCPRO_DEVICE="cpu")
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works(
    page: str, scratch: Path, warm: WarmCommands, demo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    with ExitStack() as stack:
        shell = Shell(scratch, warm, stack)
        for block in blocks(page):
            if block.is_python:
                monkeypatch.chdir(scratch)
                exec("\n".join(block.lines), {})
            for command in block.commands:
                if command in NOT_RUN:
                    continue
                printed = demo if command == "virnucpro demo" else shell.run(command)
                count += 1
                assert_printed(block.shown[command], printed)
    assert count > 8


def test_a_command_that_is_not_run_is_still_printed() -> None:
    printed = {command for page in PAGES for block in blocks(page) for command in block.commands}
    assert set(NOT_RUN) <= printed
    assert all(re.search(rf"\b({'|'.join(_WORKS_ON)}) ", command) for command in printed - set(NOT_RUN))


def test_every_line_of_a_page_that_looks_like_a_command_is_found() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        lines = re.findall(r"^    (?:\$ )?((?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?virnucpro [a-z].*)$", text, re.M)
        found = {command for block in blocks(page) for command in block.commands}
        missing = [
            line for line in lines if not any(line.split("  #")[0].rstrip(" \\") in it for it in found)
        ]
        assert missing == []


def test_the_demo_prints_what_the_readme_shows(demo: str) -> None:
    (block,) = [block for block in blocks("README.md") if block.lines[0].startswith("record ")]
    assert_printed(block.lines, demo)


def assert_printed(shown: list[str], printed: str) -> None:
    """Each line that a page shows is printed; the end of a long one and times may differ, last digits by rounding."""
    lines = [line.split() for line in printed.splitlines()]
    for line in shown:
        words = line.removesuffix(" ...").split()
        if words in ([], ["..."]):
            continue
        cut = line.endswith(" ...")
        # What stands before a word for seconds differs from run to run.
        seconds = [after.rstrip(".,:") == "s" for after in [*words[1:], ""]]
        assert any(
            (len(words) <= len(other) if cut else len(words) == len(other))
            and all(map(alike, words, other, seconds))
            for other in lines
        ), f"not printed: {line}"


def alike(shown: str, printed: str, is_seconds: bool) -> bool:
    """Whether two words are equal, but for the last digit of a number or for a number of seconds."""
    if shown == printed:
        return True
    numbers = [re.fullmatch(r"(\d+\.\d+)(%?)", word) for word in (shown, printed)]
    if None in numbers:
        return False
    one, other = (float(number[1]) for number in numbers if number)
    return is_seconds or abs(one - other) <= 0.0021 * max(1.0, one)
