"""The chart as helm renders it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import CHART, passes

CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))


def values_file(case: str) -> Path:
    return CHART / "ci" / f"{case}-values.yaml"


def template(case: str, *arguments: str, release: str = "test", namespace: str = "bio") -> str:
    """The manifests of a values file, as text."""
    where = ("--namespace", namespace, "--kube-version", "1.33.0")
    return passes(
        "helm-or-renderer", "template", release, CHART, *where, "--values", values_file(case), *arguments
    )


def objects(case: str, *arguments: str, release: str = "test") -> dict[str, dict[str, Any]]:
    """Kind -> manifest; there is one of each kind."""
    found: dict[str, dict[str, Any]] = {}
    for each in yaml.safe_load_all(template(case, *arguments, release=release)):
        if each:
            assert each["kind"] not in found
            found[each["kind"]] = each
    return found


def pod(case: str, *arguments: str) -> dict[str, Any]:
    """The pod's spec."""
    spec: dict[str, Any] = objects(case, *arguments)["StatefulSet"]["spec"]["template"]["spec"]
    return spec


def container(case: str, *arguments: str) -> dict[str, Any]:
    (only,) = pod(case, *arguments)["containers"]
    return dict(only)


def environment(case: str, *arguments: str) -> dict[str, str]:
    """Variables with a value in the manifest."""
    return {each["name"]: each["value"] for each in container(case, *arguments)["env"] if "value" in each}
