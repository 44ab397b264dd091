"""docs/asyncapi.yaml by the specification's own JSON schema, which is fetched with npm (Apache licence 2.0)."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from docs.asyncapi import DOCUMENT

_PACKAGE = "@asyncapi/specs@6.11.1"
_SHA512 = "A3WBLqAKGoJ2+6FWFtpjBlCQ1oFCcs4GxF7zsIGvNqp/klGUHjlA3aAcZ9XMMpLGE8zPeYDz2x9FmO6DSuKraQ=="
_FETCH_S = 120


class NoSpecification(RuntimeError):
    """The schema is not available on this machine; the message says why."""


def specification(folder: Path) -> dict[str, Any]:
    """The JSON schema of AsyncAPI 3.0.0; without the network where npm has it already."""
    if shutil.which("npm") is None:
        raise NoSpecification("npm not found")
    command = ["npm", "pack", _PACKAGE, "--prefer-offline", "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_FETCH_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NoSpecification(f"npm has not fetched {_PACKAGE} within {_FETCH_S} s") from error
    if done.returncode:
        raise NoSpecification(f"npm cannot fetch {_PACKAGE}: {(done.stdout + done.stderr)[:500]}")
    (archive,) = folder.glob("*.tgz")
    assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == _SHA512
    with tarfile.open(archive) as files:
        schema = files.extractfile("package/schemas/3.0.0.json")
        assert schema is not None
        found: dict[str, Any] = json.load(schema)
    return found


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> jsonschema.Draft7Validator:
    try:
        return jsonschema.Draft7Validator(specification(tmp_path_factory.mktemp("npm")))
    except NoSpecification as reason:
        pytest.skip(f"the schema of AsyncAPI cannot be had here: {reason}")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))


def test_the_document_is_valid(validator, document):
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)] == []


def _action(document: dict[str, Any]) -> None:
    document["operations"]["scoreSequence"]["action"] = "publish"


def _payload(document: dict[str, Any]) -> None:
    document["components"]["messages"]["Prediction"]["payload"]["schema"]["type"] = "table"


def _binding(document: dict[str, Any]) -> None:
    document["channels"]["input_topic"]["bindings"]["kafka"]["partition"] = 4


@pytest.mark.parametrize("damage", [_action, _payload, _binding])
def test_a_damaged_document_is_not(validator, document, damage: Callable[[dict[str, Any]], None]):
    damaged = copy.deepcopy(document)
    damage(damaged)
    assert not validator.is_valid(damaged)
