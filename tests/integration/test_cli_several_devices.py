"""`virnucpro predict --devices`: the bytes of one device, whatever becomes of the others."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from consumer.cli.app import run
from consumer.errors import ExitCode
from tests.support.harness import ROOT, environment, wait_until
from tests.support.models_fixture import random_bundle
from virnucpro_core.scoring.row_journal import RowJournal

FILES = {
    "--output": "out.jsonl",
    "--virus-fasta": "viruses.fasta",
    "--gff3": "out.gff3",
    "--rejected": "no.tsv",
}
SETTINGS = {"VIRNUCPRO_SELF_TEST": "no", "VIRNUCPRO_TOKEN_BUDGET": "600", "OMP_NUM_THREADS": "1"}
TWO = ("--devices", "cpu,cpu")


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VIRNUCPRO_")]:
        monkeypatch.delenv(name)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(random_bundle(tmp_path_factory.mktemp("bundle") / "tiny", seed=1).path)


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short records, one that takes many batches, two of one id, equal ones, and two that cannot be scored."""
    rng = np.random.default_rng(1)
    codons = ["GCA", "ATT", "CGA", "CCG", "GAC"]
    records = ["".join(rng.choice(codons, rng.integers(20, 80))) for _ in range(120)]
    records[10] = "".join(rng.choice(codons, 3000))
    records[15], records[20], records[25] = "GC4", "", records[3]
    names = [f"r{number}" for number in range(118)] + ["same", "same"]
    path = tmp_path_factory.mktemp("reads") / "reads.fasta"
    path.write_text("".join(f">{name} words\n{each}\n" for name, each in zip(names, records, strict=True)))
    return path


def command(reads: Path, tiny: str, folder: Path, *more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    files = [part for option, name in FILES.items() for part in (option, str(folder / name))]
    return ["predict", str(reads), "--model", tiny, *files, *more]


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


@pytest.fixture(scope="module")
def of_one_device(reads: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        assert run(command(reads, tiny, folder, "--device", "cpu")) == ExitCode.RUNTIME, "two are left out"
    found = outputs(folder)
    assert set(found) == set(FILES.values())
    return found


def kill_after(count: int, processes: int, patch: pytest.MonkeyPatch) -> None:
    """Kill so many of the processes of devices when `count` batches are in the journal."""
    plain, batches = RowJournal.append, 0

    def append(self: RowJournal, keys: Sequence[tuple[int, int]], rows: NDArray[np.float32]) -> None:
        nonlocal batches
        plain(self, keys, rows)
        batches += 1
        if batches == count:
            children = multiprocessing.active_children()
            for child in children[:processes]:
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)

    patch.setattr(RowJournal, "append", append)


def test_two_devices_give_the_bytes_of_one_and_the_rate_of_each(
    of_one_device, reads, tiny, tmp_path, capsys
) -> None:
    summary = tmp_path / "summary.json"
    folder = tmp_path / "two"
    assert run(command(reads, tiny, folder, *TWO, "--summary", str(summary))) == ExitCode.RUNTIME
    assert outputs(folder) == of_one_device
    used = json.loads(summary.read_text())["devices"]
    assert [(use["device"], use["lost"]) for use in used] == [("cpu", None)] * 2
    assert all(use["frames"] and use["tokens_per_second"] for use in used)
    err = capsys.readouterr().err
    assert "on cpu, cpu (fp32)" in err
    assert err.count("tokens a second") == 2
    assert multiprocessing.active_children() == []


def test_the_work_of_a_device_that_is_lost_goes_to_the_other(
    of_one_device, reads, tiny, tmp_path, capsys
) -> None:
    folder = tmp_path / "two"
    with pytest.MonkeyPatch.context() as patch:
        kill_after(3, 1, patch)
        assert run(command(reads, tiny, folder, *TWO)) == ExitCode.RUNTIME
    err = capsys.readouterr().err
    assert "cpu is lost (its process ended with exit code -9): its work goes to cpu" in err
    assert "; lost: its process" in err
    assert outputs(folder) == of_one_device


def test_when_every_device_is_lost_the_run_ends_and_another_number_of_them_goes_on_with_it(
    of_one_device, reads, tiny, tmp_path, capsys
) -> None:
    folder = tmp_path / "two"
    with pytest.MonkeyPatch.context() as patch:
        kill_after(3, 2, patch)
        assert run(command(reads, tiny, folder, *TWO)) == ExitCode.DEVICE_LOST
    err = capsys.readouterr().err
    assert "every device is lost: cpu: its process ended with exit code -9; cpu: its process" in err
    assert "the same command with --resume goes on from there" in err
    assert set(outputs(folder)) == {"out.jsonl.journal"}
    assert run(command(reads, tiny, folder, "--device", "cpu", "--resume")) == ExitCode.RUNTIME
    assert outputs(folder) == of_one_device


def group_is_empty(group: int) -> bool:
    """Whether no process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("end", ["Ctrl-C", "SIGKILL"])
def test_a_run_that_is_stopped_leaves_no_process_and_goes_on(
    end, of_one_device, tiny, reads, tmp_path
) -> None:
    """Ctrl-C reaches all processes of the terminal, SIGKILL the first alone."""
    long = tmp_path / "long.fasta"
    long.write_text(reads.read_text() * 40)
    journal = tmp_path / "out.jsonl.journal"
    child = subprocess.Popen(
        [sys.executable, "-m", "consumer.cli.app", *command(long, tiny, tmp_path, *TWO)],
        cwd=ROOT,
        env=environment(**SETTINGS),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: journal.exists() and journal.stat().st_size > 5000, "rows in the journal", 60)
        if end == "Ctrl-C":
            os.killpg(child.pid, signal.SIGINT)
        else:
            child.kill()
        _, err = child.communicate(timeout=60)
        wait_until(lambda: group_is_empty(child.pid), "the end of the processes of the devices", 30)
    finally:
        if not group_is_empty(child.pid):
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(30)
    assert "Traceback" not in err
    if end == "Ctrl-C":
        assert child.returncode == 130
        assert f"the scores so far are in {journal}: the same command with --resume goes on" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--devices", "cpu,tpu"],
            "'tpu' is not a device: give all, or a list such as cuda:0,cuda:1 or cpu,cpu",
        ),
        (["--devices", "cuda,cuda:0"], "cuda:0 is named twice"),
        (["--devices", "cpu,cpu", "--device", "cpu"], "--device and --devices: leave one of them out"),
    ],
)
def test_what_is_not_a_list_of_devices_is_refused(options, says, reads, tiny, tmp_path, capsys) -> None:
    assert run(command(reads, tiny, tmp_path, *options)) == ExitCode.USAGE
    assert says in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(reads, tiny, tmp_path, capsys) -> None:
    assert run(command(reads, tiny, tmp_path, "--devices", "cpu,cuda:97")) == ExitCode.RUNTIME
    assert "cuda:97: device 'cuda:97' is not there" in capsys.readouterr().err
    assert multiprocessing.active_children() == []
