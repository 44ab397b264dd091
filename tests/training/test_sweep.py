"""Several recipes tried side by side: the commands themselves, on the made-up corpus."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import pytest

from tests.support.training_fixture import TINY, data
from training.runs import sweep
from training.runs.sweep import TOO_LATE, Runner, Trial, command, markdown, read

FILE = """
[plain]
why = "as it is"
set = []

[longer]
why = "more steps"
set = ["head.optimiser.steps=5"]

[other-encoders]
why = "hidden amino acids"
set = ["pretrain.protein_masked=0.3"]

[broken]
why = "no batch is so large"
set = ["head.optimiser.frames=100000"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(FILE)
    return path


def given(file: Path, out: Path, *more: str) -> list[str]:
    options = ["--data", str(data().folder), "--out", str(out), "--sweep", str(file), "--processes", "1"]
    return [*options, "--devices", "cpu", "cpu", *(word for one in TINY for word in ("--set", one)), *more]


def test_trials_share_what_they_have_in_common_and_one_that_fails_stops_no_other(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"
    assert sweep.main(given(file, out)) == 1
    rows = {row["name"]: row for row in json.loads((out / "sweep.json").read_text())}
    assert list(rows)[-1] == "broken"
    assert "cannot fill a batch of 100000" in rows["broken"]["failed"]
    for name in ("plain", "longer", "other-encoders"):
        report = json.loads((out / "sweep" / name / "trial" / "model-500.json").read_text())
        assert rows[name]["dev"] == report["model"]["dev"]
        assert rows[name]["temperature"] == report["temperature"]
        assert 0 <= rows[name]["validation"] <= 1
        assert (report["curves"]["member 2"][-1]["step"] == 5) == (name == "longer")
    assert len(list(out.rglob("encoders-*.pt"))) == 2, "plain and longer share theirs"
    assert len(list(out.rglob("table-500-*.npz"))) == 1
    assert "cannot fill" in (out / "sweep.md").read_text()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    assert sweep.main(given(file, out, "--only", "plain", "longer")) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")} == before, "done already"


def test_no_trial_begins_after_the_deadline(file: Path, tmp_path: Path) -> None:
    assert sweep.main(given(file, tmp_path / "out", "--minutes", "0", "--only", "plain")) == 1
    [row] = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert row["failed"] == TOO_LATE


def test_one_that_runs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    started = time.monotonic()
    assert command("runs.sweep", ["--help"], tmp_path / "log", "cpu", 0.05) == TOO_LATE
    assert time.monotonic() - started < 30


def test_a_device_has_one_job_at_a_time_all_are_used_and_a_job_waits_for_the_one_it_needs() -> None:
    running: list[str] = []
    seen: set[str] = set()
    finished: list[int] = []

    def job(number: int, device: str, left: float) -> None:
        assert device not in running
        assert left <= 100
        assert number < 10 or number // 10 - 1 in finished
        running.append(device)
        seen.add(device)
        time.sleep(0.02)
        running.remove(device)
        finished.append(number)

    Runner(["cuda:0", "cuda:1"], 100).run(
        (partial(job, number), [partial(job, 10 * (number + 1) + other) for other in range(2)])
        for number in range(4)
    )
    assert seen == {"cuda:0", "cuda:1"}
    assert sorted(finished) == [0, 1, 2, 3, 10, 11, 20, 21, 30, 31, 40, 41]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[a]\nwhy = "x"\n', "a: a trial has `why` and `set`"),
        ('a = "x"\n', "a: a trial has `why` and `set`"),
        ('[a]\nwhy = "x"\nset = ["head.softer=1"]\n', "unknown setting head.softer"),
    ],
)
def test_a_wrong_file_is_named(file: Path, tmp_path: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(SystemExit, match=message) as ended:
        sweep.main(given(file, tmp_path / "out"))
    assert str(file) in str(ended.value)


def test_an_unknown_name_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no trial missing"):
        sweep.main(given(file, tmp_path / "out", "--only", "plain", "missing"))


def test_the_trials_of_the_bundled_model_are_recipes() -> None:
    found = read(sweep.SWEEP)
    assert len(found) >= 8
    assert found[0] == Trial("recipe", "as it stands", ())


def test_the_table() -> None:
    rows = [
        {
            "name": "a",
            "why": "why not",
            "set": ["x.y=1", "z=2"],
            "seconds": 12.3,
            "dev": 0.91234,
            "pieces": None,
        },
        {"name": "b", "why": "it broke", "set": [], "failed": "no memory"},
    ]
    _, _, one, other = markdown(rows, 300).splitlines()
    assert one == "| a | `x.y=1` `z=2` | 0.9123 | - | - | - | - | 12 | why not |"
    assert other == "| b | none | - | - | - | - | - | no memory | it broke |"
