"""The recipe of the bundled models: read strictly, changed by name."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from training.recipe import DEFAULT, Recipe
from training.runs.workspace import TRIAL, options, workspace
from virnucpro_core.bundle.bundle import bundled, find_bundle, read_manifest


def test_the_recipe_reads_and_changes_by_name() -> None:
    recipe = Recipe.load()
    changed = Recipe.load(changes=["head.optimiser.steps=7", "data.full=1", "pretrain.dna_masked=0.5"])
    assert changed.head.optimiser.steps == 7 != recipe.head.optimiser.steps
    assert changed.data.full == 1.0
    assert isinstance(changed.data.full, float)
    assert changed.pretrain.dna_masked == 0.5
    assert changed.shape == recipe.shape


def test_a_digest_names_its_sections_only() -> None:
    recipe, changed = Recipe.load(), Recipe.load(changes=["head.dropout=0.125"])
    assert recipe.digest("shape", "data") == changed.digest("shape", "data")
    assert recipe.digest("head") != changed.digest("head")
    assert recipe.digest("shape") != recipe.digest("data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("head.optimiser.step=7", "unknown setting head.optimiser.step"),
        ("heads.optimiser.steps=7", "unknown setting heads.optimiser.steps"),
        ("head.optimiser.steps.more=7", "unknown setting head.optimiser.steps.more"),
        ("head=7", "unknown setting head"),
        ("head.optimiser=7", "unknown setting head.optimiser"),
        ("", "unknown setting "),
        ("head.dropout", "head.dropout cannot be ''"),
        ("head.dropout=much", "head.dropout cannot be 'much'"),
        ("head.dropout='much'", "recipe.head.dropout must be float, not 'much'"),
        ("head.evals=1.5", "recipe.head.evals must be int, not 1.5"),
        ("head.evals=true", "recipe.head.evals must be int, not True"),
    ],
)
def test_a_wrong_change_is_named(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Recipe.load(changes=[change])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (r"^dropout = .*$", "", "recipe.head.dropout is missing"),
        (r"^dropout = .*$", "dropout = 0.5\nsofter = 1", "recipe.head has no setting softer"),
        (r"^\[pretrain.optimiser\]$", "[pretrain.optimizer]", "recipe.pretrain.optimiser is missing"),
        (r"^\[shape\]$", "[sizes]", "recipe.shape is missing"),
        (r"^\[shape\]$", "extra = 1\n[shape]", "recipe has no setting extra"),
        (r"^evals = .*$", 'evals = "4"', "recipe.head.evals must be int, not '4'"),
        (r"(?s).*", "shape = 3", "recipe.shape must be a section, not 3"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    text, changes = re.subn(before, after, DEFAULT.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    assert changes == 1
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{message}$"):
        Recipe.load(path)


@pytest.mark.parametrize("name", bundled())
def test_the_bundled_models_are_of_the_recipe_in_the_file(name: str) -> None:
    recorded = read_manifest(find_bundle(name))[0].training["recipe"]
    for section in ("pretrain", "head"):  # a manifest from before that setting
        recorded[section]["optimiser"].setdefault("muon", 0)
    assert recorded == asdict(Recipe.load())


class TestCommandLine:
    @staticmethod
    def given(folder: Path, *more: str) -> list[str]:
        return ["--data", str(folder), "--out", str(folder / "out"), "--device", "cpu", *more]

    def test_a_wrong_setting_ends_the_command_with_one_line(self, tmp_path: Path) -> None:
        given = options(None).parse_args(self.given(tmp_path, "--set", "head.softer=1"))
        with pytest.raises(SystemExit, match=r"unknown setting head\.softer$"):
            workspace(given, TRIAL)

    def test_data_that_are_not_there_are_named_with_the_command_that_makes_them(self, tmp_path: Path) -> None:
        given = options(None).parse_args(self.given(tmp_path))
        with pytest.raises(SystemExit, match=r"genomes\.npz is not there: .* training\.data\.prepare_data"):
            workspace(given, TRIAL)
        (tmp_path / "genomes.npz").touch()
        with pytest.raises(
            SystemExit, match=r"tokenizer\.json is not there: .* training\.data\.train_tokenizer"
        ):
            workspace(given, TRIAL)

    def test_other_data_have_another_key(self, tmp_path: Path) -> None:
        for name in ("genomes.npz", "tokenizer.json"):
            (tmp_path / name).write_text("one")
        given = options(None).parse_args(self.given(tmp_path))
        key = workspace(given, TRIAL).key("shape")
        assert workspace(given, TRIAL).key("shape") == key != workspace(given, TRIAL).key("data")
        (tmp_path / "genomes.npz").write_text("other")
        assert workspace(given, TRIAL).key("shape") != key
