"""Strict JSON schemas of Kubernetes, from a Python package, and of CRDs, from their YAML; what is wrong by them.

kubeconform reads the same schemas. It takes a minute to build, and this nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

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


def mistakes(manifests: str, version: str, folder: Path) -> Iterator[str]:
    """What is wrong with manifests in a version of Kubernetes, a line each."""
    for manifest in yaml.safe_load_all(manifests):
        if not manifest:
            continue
        path = _schema_of(manifest, folder / f"v{version}.0-strict", folder)
        registry: Registry[Any] = Registry(retrieve=_beside(path))  # type: ignore[call-arg]  # attrs names it
        schema = {"$ref": path.name}
        for error in Draft202012Validator(schema, registry=registry).iter_errors(manifest):
            yield f"{manifest['kind']}: {error.json_path}: {error.message}"


def _schema_of(manifest: dict[str, Any], kubernetes: Path, crds: Path) -> Path:
    group, _, version = manifest["apiVersion"].rpartition("/")
    kind = manifest["kind"].lower()
    of_crd = crds / f"{kind}-{group}-{version}.json"
    return (
        of_crd
        if of_crd.exists()
        else kubernetes / "-".join(filter(None, [kind, group.split(".")[0], version + ".json"]))
    )


def _beside(path: Path) -> Callable[[str], Resource[Any]]:
    """Reads a schema that another one names, from the same folder."""

    def retrieve(uri: str) -> Resource[Any]:
        schema = json.loads((path.parent / uri).read_text())
        return Resource.from_contents(schema, default_specification=DRAFT202012)

    return retrieve


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
