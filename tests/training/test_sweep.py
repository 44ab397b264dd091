"""Recipes compared by cross-validation: the commands, on the made-up corpus."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.training_fixture import TINY, data_with_extra, tiny_recipe
from training.data.corpus import VALIDATION
from training.data.folds import Folds
from training.recipe import Recipe
from training.runs import cross_validate, sweep
from training.runs.cross_validate import Trial
from training.runs.runner import TOO_LATE
from training.runs.sweep import as_good, complexity, markdown, ranked, read
from virnucpro_core.evaluation.metrics import auroc
from virnucpro_core.scoring.verdicts import is_virus
from virnucpro_core.sequence.chunks import chunk_spans

FILE = """
[plain]
why = "as it is"
set = ["data.extra_weight=0.3"]

[longer]
why = "more steps"
set = ["data.extra_weight=0.3", "head.optimiser.steps=5"]

[broken]
why = "other encoders, and no batch is so large"
set = ["data.extra_weight=0.3", "pretrain.protein_masked=0.3", "head.optimiser.frames=100000"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(FILE)
    return path


def options(out: Path) -> list[str]:
    """Of all commands."""
    given = ["--data", str(data_with_extra().folder), "--out", str(out), "--processes", "1"]
    return [*given, *(word for one in (*TINY, "head.ensemble=1") for word in ("--set", one))]


def given(file: Path, out: Path, *more: str) -> list[str]:
    return [*options(out), "--sweep", str(file), "--devices", "cpu", "cpu", *more]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.toml").write_text(FILE)
    assert sweep.main(given(folder / "sweep.toml", folder / "out")) == 1
    for name in ("sweep.json", "sweep.md"):  # a test that sweeps again writes others
        shutil.copy(folder / "out" / name, folder)
    return folder / "out"


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((folder / "sweep.json").read_text())}


def test_trials_share_what_they_have_in_common_and_one_that_fails_stops_no_other(out: Path) -> None:
    rows = rows_of(out.parent)
    assert list(rows)[-1] == "broken"
    assert "cannot fill a batch of 100000" in rows["broken"]["failed"]
    assert "cannot fill" in (out.parent / "sweep.md").read_text()
    assert sum(row.get("chosen", False) for row in rows.values()) == 1
    for fold in ("fold-1", "fold-2"):
        assert len(list((out / fold).glob("encoders-*.pt"))) == 2, "plain and longer share theirs"
    assert len(list(out.rglob("table-500-*.npz"))) == 1, "all folds share it"


def test_what_is_done_is_not_done_again(out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")}
    assert sweep.main(given(out.parent / "sweep.toml", out, "--only", "plain")) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pt")} == before


def test_the_result_is_of_records_whose_family_or_genus_their_model_had_not_seen(out: Path) -> None:
    folder = out / cross_validate.FOLDER / "plain"
    result = json.loads((folder / "result-500.json").read_text())
    lines = [json.loads(line) for line in (folder / "scores-500.jsonl").read_text().splitlines()]
    corpus, folds = data_with_extra().corpus, Folds.read(data_with_extra().folder / "folds.tsv")
    number_of = {name: number for number, name in enumerate(corpus.ids.tolist())}
    expected = {str(corpus.ids[i]) for fold in (1, 2) for i in folds.judged(corpus, fold)}
    assert {line["id"] for line in lines} == expected
    assert len(lines) == len(expected)
    fold_of = folds.of(corpus)
    for line in lines:
        record = number_of[line["id"]]
        assert line["fold"] == fold_of[record]
        assert (line["label"] == "virus") == bool(corpus.labels[record])
        assert corpus.splits[record] != VALIDATION
        assert line["length"] == corpus.lengths[record]
        assert len(line["scores"]) == len(chunk_spans(line["length"], 500))
        assert len({other["fold"] for other in lines if other["unit"] == line["unit"]}) == 1
    # The figures follow from the scores: these records have fewer chunks than are judged at most.
    of_fold: dict[int, list[tuple[float, bool]]] = {1: [], 2: []}
    right: dict[str, list[bool]] = {}
    for line in lines:
        for scores in filter(None, line["scores"]):
            others, virus = scores
            margin = np.log(virus / (1 - virus)) - np.log(others / (1 - others))
            of_fold[line["fold"]].append((margin, line["label"] == "virus"))
            kind = "viruses" if line["label"] == "virus" else line["group"]
            right.setdefault(kind, []).append(is_virus(others, virus) == (line["label"] == "virus"))
    found = [auroc(*map(np.array, zip(*of_fold[fold], strict=True))) for fold in (1, 2)]
    assert result["auroc"]["folds"] == pytest.approx(found, abs=0.002)
    assert result["auroc"]["mean"] == pytest.approx(np.mean(found), abs=0.002)
    assert result["auroc"]["spread"] == pytest.approx(np.std(found, ddof=1), abs=0.002)
    for kind, values in right.items():
        assert result["right"][kind]["pieces"] == len(values)
        assert result["right"][kind]["share"] == pytest.approx(np.mean(values), abs=0.01)
    assert rows_of(out.parent)["plain"]["auroc"] == result["auroc"]


def test_no_fold_begins_after_the_deadline(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cross_validate.main([*options(out), "--devices", "cpu", "--minutes", "0"]) == 1
    assert not list(out.rglob("*.pt"))


def test_what_had_no_time_is_named(file: Path, tmp_path: Path) -> None:
    assert sweep.main(given(file, tmp_path / "out", "--minutes", "0", "--only", "plain")) == 1
    assert rows_of(tmp_path / "out")["plain"]["failed"] == TOO_LATE


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


def test_the_trials_of_the_sweep_are_recipes() -> None:
    found = read(sweep.SWEEP)
    assert len(found) >= 8
    assert found[0] == Trial("recipe", "as it stands", ())
    assert any(
        float(change.split("=")[1]) > 0 for one in found for change in one.changes if "extra" in change
    )


class TestRanking:
    @pytest.mark.parametrize(
        ("other", "luck"),
        [
            ([0.90, 0.80, 0.85], True),  # the same
            ([0.91, 0.78, 0.84], True),  # mean difference 0.007, spread 0.015
            ([0.89, 0.79, 0.84], False),  # a little worse in each fold: no luck
            ([0.86, 0.78, 0.80], False),  # mean difference 0.037, spread 0.015
        ],
    )
    def test_a_difference_within_the_spread_of_the_folds_differences_is_luck(
        self, other: list[float], luck: bool
    ) -> None:
        assert as_good([0.90, 0.80, 0.85], other) == luck

    @pytest.mark.parametrize(
        ("simple", "less"),
        [
            (("shape.esm2_layers=1", "head.ensemble=3"), ("shape.esm2_layers=2",)),  # weights before all else
            (("head.smoothing=0.0", "head.optimiser.steps=9"), ()),  # then techniques
            ((), ("data.extra_weight=0.3",)),
            ((), ("head.ensemble=3",)),
            (("pretrain.optimiser.steps=3",), ()),  # then the frames trained on
            ((), ("head.optimiser.frames=17",)),
            ((), ("head.optimiser.lr=2e-3",)),  # then the changes
        ],
    )
    def test_what_is_simpler(self, simple: tuple[str, ...], less: tuple[str, ...]) -> None:
        one, other = (
            complexity(tiny_recipe("head.ensemble=1", *changes), 89, len(changes))
            for changes in (simple, less)
        )
        assert one < other

    def test_techniques_are_settings_of_the_recipe(self) -> None:
        recipe = Recipe.load()
        for section, names in sweep.TECHNIQUES.items():
            for name in names:
                assert isinstance(getattr(getattr(recipe, section), name), float)

    def test_of_those_that_are_as_good_the_simplest_is_chosen(self) -> None:
        def row(name: str, folds: list[float]) -> dict[str, Any]:
            return {"name": name, "auroc": {"mean": float(np.mean(folds)), "folds": folds}}

        rows = [
            row("simplest, but worse", [0.80, 0.70, 0.75]),
            row("simple", [0.91, 0.78, 0.84]),
            {"name": "broken", "failed": "why"},
            row("best", [0.90, 0.80, 0.85]),
            row("as simple, but later", [0.91, 0.78, 0.84]),
        ]
        complexities = dict(
            zip([one["name"] for one in rows], [(1, 0, 0, 0), *[(2, 0, 0, 0)] * 4], strict=True)
        )
        complexities["best"] = (3, 0, 0, 0)
        found = ranked(rows, complexities)
        assert [one["name"] for one in found] == [
            "best",
            "simple",
            "as simple, but later",
            "simplest, but worse",
            "broken",
        ]
        assert [one["name"] for one in found if one.get("chosen")] == ["simple"]
        assert [one["name"] for one in found if one.get("as_good")] == [
            "best",
            "simple",
            "as simple, but later",
        ]

    def test_where_all_failed_none_is_chosen(self) -> None:
        assert ranked([{"name": "a", "failed": "b"}], {"a": (1, 1, 1, 1)}) == [{"name": "a", "failed": "b"}]


def test_the_table() -> None:
    rows = [
        {
            "name": "a",
            "why": "why not",
            "set": ["x.y=1", "z=2"],
            "seconds": 12.3,
            "chosen": True,
            "auroc": {"mean": 0.9126, "spread": 0.01},
            "right": {"plant": {"share": 0.8}},
        },
        {"name": "b", "why": "it broke", "set": [], "failed": "no memory"},
    ]
    head, line, one, other = markdown(rows).splitlines()
    assert len({text.count("|") for text in (head, line, one, other)} - {0}) == 1
    assert one == "| **a** | `x.y=1` `z=2` | 0.913 ± 0.010 | - | - | 0.80 | - | - | - | - | 12 | why not |"
    assert other == "| b | none | - | - | - | - | - | - | - | - | no memory | it broke |"
