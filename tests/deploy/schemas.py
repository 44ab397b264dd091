"""Strict JSON schemas for kubeconform: of Kubernetes from a Python package, of CRDs from their YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import FOLDER

KUBERNETES = ("1.27", "1.33", "1.37")
"""Versions that the chart is checked for: the oldest that it allows, that of the tests' kube-apiserver, the newest."""


def convert(folder: Path) -> None:
    """Write the schemas into a folder."""
    for version in KUBERNETES:
        _kubernetes(version, folder)
    for path in (FOLDER / "crds").glob("*.yaml"):
        for crd in yaml.safe_load_all(path.read_text()):
            _crd(crd, folder)


def locations(folder: Path) -> list[str]:
    """kubeconform's arguments for that folder."""
    kubernetes = "{{.NormalizedKubernetesVersion}}{{.StrictSuffix}}/{{.ResourceKind}}{{.KindSuffix}}.json"
    crds = "{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json"
    return ["-schema-location", f"{folder}/{kubernetes}", "-schema-location", f"{folder}/{crds}"]


def _kubernetes(version: str, folder: Path) -> None:
    (package,) = FOLDER.glob("venv/lib/python3*/site-packages/kubernetes_validate/kubernetes-json-schema")
    (source,) = package.glob(f"v{version}*-local-strict")
    target = folder / f"v{version}.0-strict"
    target.mkdir()
    for path in source.glob("*.json"):
        schema = json.loads(path.read_text().replace('"/api/_definitions.json#', '"_definitions.json#'))
        schema.pop("$id", None)
        (target / path.name).write_text(json.dumps(schema))


def _crd(crd: dict[str, Any], folder: Path) -> None:
    group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"].lower()
    for version in crd["spec"]["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        schema.get("properties", {}).get("metadata", {}).update({"type": "object"})
        _make_strict(schema)
        schema.setdefault("additionalProperties", False)
        (folder / f"{kind}-{group}-{version['name']}.json").write_text(json.dumps(schema))


def _make_strict(schema: Any) -> None:
    """Refuse what a schema does not name, wherever it names something."""
    if isinstance(schema, list):
        for each in schema:
            _make_strict(each)
    if not isinstance(schema, dict):
        return
    named = schema.get("type") == "object" and "properties" in schema
    if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for each in list(schema.values()):
        _make_strict(each)
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
