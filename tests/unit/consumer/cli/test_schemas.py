"""`virnucpro schemas` without a registry: what is printed, and the errors."""

from __future__ import annotations

import json

import pytest

from consumer.cli.app import run
from schemas import SCHEMA_NAMES, schema_json
from schemas.contracts import releases


def said(capsys, *arguments: str) -> tuple[int, str, str]:
    code = run(["schemas", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_list_names_topics_and_subjects_of_the_settings(capsys, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_OUTPUT_TOPIC", "answers")
    code, out, _ = said(capsys, "list")
    rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0
    assert [row[0] for row in rows] == list(SCHEMA_NAMES)
    assert rows[1][3:] == ["answers", "answers-value"]
    found = json.loads(said(capsys, "list", "--json")[1])
    assert [list(map(str, (each["name"], each["version"], each["fingerprint"]))) for each in found] == [
        row[:3] for row in rows
    ]
    assert [each["compatibility"] for each in found] == ["BACKWARD", "FULL", "FULL"]


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_a_schema_is_printed_as_it_is(capsys, name):
    code, out, _ = said(capsys, "show", name)
    assert code == 0
    assert json.loads(out) == json.loads(schema_json(name))
    for release in releases(name):
        assert said(capsys, "show", name, "--version", str(release.version))[1] == release.text
        found = json.loads(said(capsys, "show", name, "--version", str(release.version), "--json")[1])
        assert found == {
            "name": name,
            "version": release.version,
            "fingerprint": release.fingerprint.hex(),
            "schema": json.loads(release.text),
        }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "genome"], "no schema 'genome'; there are sequence_record, prediction, dead_letter"),
        (["show", "prediction", "--version", "999"], "prediction has no version 999; there are 1"),
        (["register"], "no schema registry is named: set VIRNUCPRO_SCHEMA_REGISTRY_URL"),
    ],
)
def test_a_wrong_use_is_one_line_and_exit_code_2(capsys, arguments, says):
    code, out, err = said(capsys, *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"virnucpro: error: {says}")


def test_check_without_a_registry_compares_with_the_released_versions(capsys):
    code, out, err = said(capsys, "check")
    assert code == 0
    assert out.splitlines() == [f"{name}: compatible with every released version" for name in SCHEMA_NAMES]
    assert "the registry is not checked" in err
    assert json.loads(said(capsys, "check", "--json")[1]) == {"ok": True, "problems": [], "subjects": []}


def test_check_names_what_breaks_the_promise(capsys, monkeypatch):
    monkeypatch.setattr(
        "schemas.compatibility.evolution_problems", lambda name: ["version 1 cannot read it: x"]
    )
    code, out, err = said(capsys, "check")
    assert code == 1
    assert out.splitlines()[0] == "sequence_record: version 1 cannot read it: x"
    assert "3 problems" in err
