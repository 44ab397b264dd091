"""Schemas and a kube-apiserver for the tests of this folder; without the tools for them these are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.cluster import ApiServer
from tests.deploy.schemas import convert
from tests.deploy.tools import FOLDER, needed


@pytest.fixture(scope="session")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with strict JSON schemas of Kubernetes and of the CRDs, as kubeconform reads them."""
    if not any((FOLDER / "crds").glob("*.yaml")):
        pytest.skip("no CRDs: run deploy/tools.sh")
    folder = tmp_path_factory.mktemp("schemas")
    convert(folder)
    return folder


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A kube-apiserver on an etcd, with the CRDs; nothing runs pods."""
    for tool in ("etcd", "kube-apiserver", "kubectl", "openssl"):
        needed(tool)
    with ApiServer(tmp_path_factory.mktemp("apiserver")) as running:
        yield running
