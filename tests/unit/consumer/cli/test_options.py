"""Options of several commands: they win over their variables, and no command changes the environment."""

from __future__ import annotations

import json
import os
import re

import pytest

from consumer.cli.app import run
from consumer.cli.demo.demo_service import child_environment
from consumer.cli.options import model_settings
from virnucpro_core.options import BACKEND_CHOICES, PRECISION_CHOICES

SCORING = ("predict", "evaluate", "embed")


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRNUCPRO_MODEL", "other")
    monkeypatch.setenv("VIRNUCPRO_V1_ATTENTION", "no")
    monkeypatch.setenv("COLUMNS", "80")


def test_an_option_wins_over_its_variable_and_leaves_it_alone():
    before = dict(os.environ)
    settings = model_settings("nano", "cpu", "bf16", "sdpa", v1_attention=True)
    assert (settings.model, settings.device, settings.precision) == ("nano", "cpu", "bf16")
    assert (settings.attention_backend, settings.v1_attention) == ("sdpa", True)
    assert dict(os.environ) == before


def test_an_option_that_is_left_out_leaves_it_to_the_variable(monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_V1_ATTENTION", "yes")
    settings = model_settings()
    assert (settings.model, settings.v1_attention) == ("other", True)


@pytest.mark.parametrize(("chosen", "variable"), [(True, "true"), (False, "no")])
def test_the_demos_service_is_told_the_attention_in_its_own_environment(chosen, variable):
    before = dict(os.environ)
    assert child_environment("127.0.0.1:1", chosen)["VIRNUCPRO_V1_ATTENTION"] == variable
    assert dict(os.environ) == before


@pytest.mark.parametrize("command", SCORING)
def test_help_at_80_columns_shows_every_variable_and_choice_whole(command, capsys):
    assert run([command, "--help"]) == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for variable in ("MODEL", "DEVICE", "PRECISION", "ATTENTION_BACKEND", "V1_ATTENTION"):
        assert re.search(rf"VIRNUCPRO_{variable}\b", text), variable
    assert all(choice in text for choice in (*PRECISION_CHOICES, *BACKEND_CHOICES))
    assert "…" not in text


@pytest.mark.parametrize("option", ["--precision", "--attention-backend"])
def test_a_choice_that_there_is_not_is_a_usage_error_that_lists_them(option, capsys):
    assert run(["predict", "x.fasta", option, "none"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'auto'" in line
    assert f"Invalid value for '{option}': 'none' is not one of " in line


@pytest.mark.parametrize(
    "command",
    [
        *("predict", "evaluate", "frames", "divergence", "train-head", "version", "watch"),
        *("models list", "models show", "models verify"),
    ],
)
def test_every_command_that_can_print_json_takes_the_same_switch(command, capsys):
    assert run([*command.split(), "--help"]) == 0
    assert re.search(r"--json\b", capsys.readouterr().out)


def test_frames_prints_json_with_the_switch_and_without(tmp_path, capsys):
    (tmp_path / "a.fasta").write_text(">a\n" + "ACGTTGCA" * 9 + "\n")
    printed = []
    for options in ([], ["--json"]):
        assert run(["frames", str(tmp_path / "a.fasta"), *options]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


@pytest.mark.parametrize("command", [["version"], ["models", "list"]])
def test_json_says_what_the_lines_for_people_say(command, capsys):
    assert run(command) == 0
    words = capsys.readouterr().out.split()
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    if command == ["version"]:
        assert [f"{found['virnucpro-stream']}", "python", found["python"]] == words[1:4]
        assert found["torch"] == words[words.index("torch") + 1]
    else:
        assert [model["id"] for model in found["models"]] == ["nano-300", "nano-500"]
        assert all(model["path"] in words and model["name"] in words for model in found["models"])


@pytest.mark.parametrize(
    "command", ["predict", "evaluate", "embed", "train-head", "publish", "models import"]
)
def test_every_command_with_a_summary_line_can_be_quiet(command, capsys):
    assert run([*command.split(), "--help"]) == 0
    assert re.search(r"--quiet\b", capsys.readouterr().out)


def test_quiet_and_verbose_exclude_each_other(capsys):
    assert run(["predict", "x.fasta", "--quiet", "--verbose"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--quiet and --verbose exclude each other: leave one of them out" in line
