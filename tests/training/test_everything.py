"""Cross-validation, the training on everything and the bundles of a tiny model, by one command."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.support.training_fixture import TINY, data_with_extra
from training.data.corpus import EXTRA
from training.runs import cross_validate, everything, tables
from training.runs.cross_validate import FOLDER, RECIPE
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.hashing import sha256_of

LENGTHS = (500, 300)
CHANGES = (*TINY, "head.ensemble=1", "data.extra_weight=0.3")


pytestmark = pytest.mark.usefixtures("one_thread")


def given(out: Path, *more: str, changes: tuple[str, ...] = CHANGES) -> list[str]:
    """Of every command."""
    options = ["--data", str(data_with_extra().folder), "--out", str(out), "--processes", "1"]
    return [*options, *(word for one in changes for word in ("--set", one)), "--device", "cpu", *more]


def arguments(out: Path, *more: str, changes: tuple[str, ...] = CHANGES) -> list[str]:
    """Of training.run."""
    return given(out, "--devices", "cpu", "cpu", *more, changes=changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of a whole run, and the lines that it printed."""
    out = tmp_path_factory.mktemp("everything") / "out"
    # As `python -m training.run` does, but torch is loaded already.
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(sys, "argv", ["training.run", *arguments(out)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("training.run", run_name="__main__")
    assert ended.value.code == 0, printed.getvalue()
    return out, [json.loads(line) for line in printed.getvalue().splitlines()]


def stamps(out: Path) -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("length", LENGTHS)
def test_a_bundle_has_everything_and_what_cross_validation_says_of_its_recipe(run, length: int) -> None:
    out, _ = run
    bundle = Bundle.load(out / "everything" / f"nano-{length}")
    folder = out / FOLDER / RECIPE
    result = json.loads((folder / f"result-{length}.json").read_text())
    manifest, corpus = bundle.manifest, data_with_extra().corpus
    assert manifest.expected_length == length
    assert manifest.temperature == result["temperature"]
    assert manifest.training["command"] == "python -m training.run --data DATA --out OUT"
    assert manifest.training["trained_on"] == ["train", "dev", "validation", "extra"]
    assert manifest.training["cross_validation"]["right"] == result["right"]
    assert manifest.validation["auroc"] == result["auroc"]["mean"]
    assert manifest.calibration is not None
    scores = folder / f"scores-{length}.jsonl"
    assert manifest.calibration.about["scores"]["sha256"] == sha256_of(scores)
    assert manifest.calibration.about["records"] == len(scores.read_text().splitlines())
    assert len(manifest.training["data"]["extra"]["ids"].split()) == (corpus.splits == EXTRA).sum()
    assert not (out / f"nano-{length}").exists(), "nothing was measured on validation"


def test_all_phases_share_tables_and_lengths_share_encoders(run) -> None:
    out, lines = run
    assert len(list(out.rglob("table-500-*.npz"))) == len(list(out.rglob("table-300-*.npz"))) == 1
    for phase in ("fold-1", "fold-2", "everything"):
        assert len(list((out / phase).glob("encoders-*.pt"))) == 1
    trained = {(line["phase"], line["length"]) for line in lines if line.get("done") == "runs.train_head"}
    assert trained == {(phase, length) for phase in ("fold-1", "fold-2", "everything") for length in LENGTHS}
    # Those of the second length are made while the models of the first are trained.
    assert {"done": "runs.tables", "length": 300} in lines


def test_what_is_done_is_not_done_again(run, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run
    before = stamps(out)
    assert everything.main(arguments(out)) == 0
    assert stamps(out) == before
    assert capsys.readouterr().out == ""


def test_a_bundle_of_another_recipe_is_not_taken_for_this_one(run) -> None:
    out, _ = run
    before = stamps(out)
    with pytest.raises(SystemExit, match="nano-500 is of other data or another recipe"):
        everything.main(arguments(out, changes=(*CHANGES, "head.dropout=0.5")))
    assert stamps(out) == before


def test_results_that_are_there_are_taken_up_and_those_of_another_recipe_refused(run, tmp_path: Path) -> None:
    out, _ = run
    results = tmp_path / "out" / FOLDER / "named"
    results.mkdir(parents=True)
    for name in ("result-500.json", "scores-500.jsonl"):
        shutil.copy(out / FOLDER / RECIPE / name, results)
    command = ("--lengths", "500", "--name", "named")
    with pytest.raises(SystemExit, match=r"result-500\.json is of another recipe or other data: repeat"):
        everything.main(arguments(tmp_path / "out", *command, changes=(*CHANGES, "head.dropout=0.5")))
    assert everything.main(arguments(tmp_path / "out", *command)) == 0
    assert (tmp_path / "out" / "everything" / "nano-500").is_dir()
    assert not list((tmp_path / "out").rglob("fold-*/*.pt")), "no fold was trained again"


def test_what_has_no_time_leaves_no_bundle_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert everything.main(arguments(tmp_path / "out", "--lengths", "500", "--minutes", "0")) == 1
    assert "out of time: give the command again" in capsys.readouterr().out
    assert not (tmp_path / "out" / "everything" / "nano-500").exists()


def test_tables_can_be_made_before(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert tables.main(given(out, "--length", "300")) == 0
    before = stamps(out)
    assert {path.name.split("-", 2)[0] for path in before} == {"table", "left"}
    assert cross_validate.main(arguments(out, "--length", "300", "--minutes", "0")) == 1
    assert {path: time for path, time in stamps(out).items() if path.suffix == ".npz"} == before
