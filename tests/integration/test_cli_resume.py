"""`virnucpro predict --resume`: killed at any moment, gone on with, and every output has the same bytes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from consumer.cli.app import run
from tests.support.models_fixture import random_bundle
from tests.support.warm_commands import WarmCommands
from virnucpro_core.models.engine import Engine
from virnucpro_core.scoring.row_journal import RowJournal
from virnucpro_core.sequence.prepare import PreparedFrame

FILES = {
    "--output": "out.tsv.gz",
    "--virus-fasta": "viruses.fasta",
    "--bed": "out.bed",
    "--gff3": "out.gff3",
    "--rejected": "rejected.tsv",
    "--summary": "summary.json",
}
BUDGET = "600"
FRAMES = 20  # bytes of a frame in the journal


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VIRNUCPRO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VIRNUCPRO_DEVICE", "cpu")
    monkeypatch.setenv("VIRNUCPRO_TOKEN_BUDGET", BUDGET)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(random_bundle(tmp_path_factory.mktemp("bundle") / "tiny", seed=1).path)


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short and long records, two of one id, two of one sequence, two that cannot be scored."""
    rng = np.random.default_rng(1)
    codons = ["GCA", "ATT", "CGA", "CCG", "GAC"]
    records = [("".join(rng.choice(codons, rng.integers(20, 80)))) for _ in range(30)]
    records[10] = "".join(rng.choice(codons, 1200))
    records[15], records[20], records[25] = "GC4", "", records[3]
    path = tmp_path_factory.mktemp("reads") / "reads.fasta"
    names = [f"r{number}" for number in range(28)] + ["same", "same"]
    path.write_text(
        "".join(f">{name} words\n{letters}\n" for name, letters in zip(names, records, strict=True))
    )
    return path


def command(reads: Path, tiny: str, folder: Path, *more: str) -> list[str]:
    files = [part for option, name in FILES.items() for part in (option, str(folder / name))]
    return ["predict", str(reads), "--model", tiny, *files, *more]


def outputs(folder: Path) -> dict[str, object]:
    """The bytes of every file that is there; of the summary what is not a measurement."""
    found: dict[str, object] = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."
    }
    if (folder / "summary.json").exists():
        summary = json.loads((folder / "summary.json").read_text().replace(str(folder), ""))
        del summary["seconds"], summary["devices"], summary["counts"]["frame_cache_hits"]
        found["summary.json"] = summary
    return found


class Undisturbed:
    """A run without a kill: what it writes, how long it takes, and how large its journal gets."""

    def __init__(self, warm: WarmCommands, reads: Path, tiny: str, folder: Path) -> None:
        begun = time.monotonic()
        _, answers = warm.start(command(reads, tiny, folder), folder, **SETTINGS)
        assert answers.readline() == "1\n"  # two records are left out
        self.seconds = time.monotonic() - begun
        self.outputs = outputs(folder)
        lines = json.loads((folder / "summary.json").read_text())["counts"]
        assert lines["left_out"] == {"empty_sequence": 1, "invalid_nucleotides": 1}


SETTINGS = {
    "VIRNUCPRO_DEVICE": "cpu",
    "VIRNUCPRO_SELF_TEST": "no",
    "VIRNUCPRO_TOKEN_BUDGET": BUDGET,
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def undisturbed(
    warm: WarmCommands, reads: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    return Undisturbed(warm, reads, tiny, tmp_path_factory.mktemp("undisturbed"))


def frames_of(journal: Path) -> int:
    """The size of a journal, about in frames; 0 if it is not there."""
    try:
        return journal.stat().st_size // FRAMES
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_is_killed_at_a_random_moment_goes_on_to_the_same_bytes(
    seed: int, warm: WarmCommands, undisturbed: Undisturbed, reads: Path, tiny: str, tmp_path: Path
) -> None:
    """Half of the moments are any, those of the others are in the scoring."""
    rng = np.random.default_rng(seed)
    arguments = command(reads, tiny, tmp_path, "--resume")
    journal = tmp_path / f"{FILES['--output']}.journal"
    process, answers = warm.start(arguments, tmp_path, **SETTINGS)
    if seed % 2:
        enough, deadline = rng.integers(40, 250), time.monotonic() + 60
        while frames_of(journal) < enough and not (tmp_path / FILES["--output"]).exists():
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.005))
    else:
        time.sleep(rng.uniform(0, undisturbed.seconds))
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(process, signal.SIGKILL)
    code = answers.readline()
    if code == f"{128 + signal.SIGKILL}\n":
        written = set(outputs(tmp_path)) - {journal.name}
        # The files take their names one right after the other, each of them complete.
        assert all(outputs(tmp_path)[name] == undisturbed.outputs[name] for name in written)
    _, answers = warm.start(arguments, tmp_path, **SETTINGS)
    assert answers.readline() == "1\n"
    assert outputs(tmp_path) == undisturbed.outputs


def stop_after(batches: int, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> list[int]:
    """Make the engine raise instead of its next batch but so many; gives the frames of each batch that it scores."""
    scored: list[int] = []
    plain = Engine.score

    def score(self: Engine, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        if len(scored) == batches:
            raise error
        scored.append(len(frames))
        return plain(self, frames)

    monkeypatch.setattr(Engine, "score", score)
    return scored


@pytest.mark.parametrize("form", ["jsonl", "contigs", "virnucpro"])
def test_ctrl_c_says_how_to_go_on_and_what_was_scored_is_not_scored_again(
    form: str, reads: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "new" / "out", tmp_path / "whole"
    if form != "virnucpro":
        out.parent.mkdir()
    arguments = ["predict", str(reads), "--model", tiny, "--format", form, "--frame-cache", "0"]
    with pytest.MonkeyPatch.context() as patch:
        every = stop_after(10**9, patch, KeyboardInterrupt)
        assert run([*arguments, "-o", str(whole)]) == 1
    journal = out.parent / "out.journal"
    with pytest.MonkeyPatch.context() as patch:
        first = stop_after(12, patch, KeyboardInterrupt)
        assert run([*arguments, "-o", str(out)]) == 130
    assert (
        f"the scores so far are in {journal}: the same command with --resume goes on"
        in capsys.readouterr().err
    )
    assert list(out.parent.iterdir()) == [journal]
    assert run([*arguments, "-o", str(out)]) == 2
    err = capsys.readouterr().err
    assert (
        f"{journal} holds the scores of a run that was stopped: go on with it by --resume, or delete it"
        in err
    )
    with pytest.MonkeyPatch.context() as patch:
        rest = stop_after(10**9, patch, KeyboardInterrupt)
        assert run([*arguments, "-o", str(out), "--resume"]) == 1
    assert sum(first) + sum(rest) == sum(every)
    assert not journal.exists()
    if form == "virnucpro":
        assert {p.name: p.read_bytes() for p in out.iterdir()} == {
            p.name: p.read_bytes() for p in whole.iterdir()
        }
    else:
        assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (["--keep-u"], "its keep u is False, now it is True"),
        (["--precision", "bf16"], "its precision is fp32, now it is bf16"),
        ("more", "its sha256 of the input is"),
    ],
)
def test_a_journal_of_another_run_is_refused_and_stays(
    changed: list[str] | str,
    says: str,
    reads: Path,
    tiny: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fasta, out, journal = tmp_path / "reads.fasta", tmp_path / "out.tsv", tmp_path / "out.tsv.journal"
    fasta.write_bytes(reads.read_bytes())
    arguments = ["predict", str(fasta), "--model", tiny, "-o", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(5, patch, KeyboardInterrupt)
        assert run(arguments) == 130
    before = journal.read_bytes()
    header = json.loads(before.split(b"\n")[0])["run"]
    assert (header["input"], header["keep_u"]) == ("reads.fasta", False)
    assert len(header["model_sha256"]) == len(header["sha256_of_the_input"]) == 64
    if changed == "more":
        fasta.write_text(fasta.read_text() + ">more\nGCA\n")
    capsys.readouterr()
    assert run([*arguments, "--resume", *(changed if isinstance(changed, list) else [])]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1
    assert journal.read_bytes() == before
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["reads.fasta"], "name a file with --output"),
        (["-", "-o", "out.tsv"], "a stream can be read once, so name the input file"),
        (["reads.fasta", "-o", "/dev/null"], "/dev/null is not a regular file"),
    ],
)
def test_what_cannot_be_resumed_is_refused(
    arguments: list[str],
    says: str,
    reads: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "reads.fasta").write_bytes(reads.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert run(["predict", *arguments, "--resume"]) == 2
    assert "--resume cannot be used: " in (err := capsys.readouterr().err)
    assert says in err


def test_the_name_of_the_journal_is_not_another_files(
    reads: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, journal = tmp_path / "out", tmp_path / "out.journal"
    arguments = ["predict", str(reads), "--model", tiny, "-o", str(out)]
    assert run([*arguments, "--bed", str(journal)]) == 2
    assert "is the name of this run's journal" in capsys.readouterr().err
    journal.write_text("my notes")
    assert run(arguments) == 1
    assert "is not a journal" in capsys.readouterr().err
    assert journal.read_text() == "my notes"
    journal.unlink()
    held = RowJournal(journal)
    assert run(arguments) == 1
    assert "another process is writing" in capsys.readouterr().err
    held.close()
    assert list(tmp_path.iterdir()) == []
