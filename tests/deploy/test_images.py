"""The images, built from their files and run: by buildah, which needs no Docker, as root.

They take minutes and 20 GB of disk, so they are built where `DEPLOY_IMAGES` is set (`make check-images`). Where no
registry gives the base image, one of Debian's packages stands in: the same Debian, its Python 3.11, this machine's
certificates. A container is a chroot here: what only a container's runtime does (`--read-only`, limits, the health
check's schedule) is not seen.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.tools import ROOT, needed
from virnucpro_core._version import __version__

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("DEPLOY_IMAGES"), reason="takes minutes: `make check-images` builds it"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="building an image without Docker needs root"),
    pytest.mark.timeout(1800),
]
BASE = "docker.io/library/python:3.11-slim-bookworm"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
IMAGE, BUNDLED = "localhost/virnucpro-stream:check", "localhost/virnucpro-stream:bundled"
SERVED = """
virnucpro serve > /tmp/serve.log 2>&1 & service=$!
probe() { python -IS /opt/virnucpro/probe.py "$1"; }
for second in $(seq 120); do sleep 1; probe readyz > /dev/null && break; done
probe readyz && probe livez || exit 1
kill -TERM $service; wait $service; echo "exit $?"
probe livez || echo "probe $?"
"""


@dataclass(frozen=True)
class Buildah:
    """Keeps its images in a folder of its own."""

    folder: Path

    def run(self, *arguments: str, limit_s: float = 1200) -> subprocess.CompletedProcess[str]:
        where = [
            f"--root={self.folder / 'images'}",
            f"--runroot={self.folder / 'run'}",
            "--storage-driver=overlay",
        ]
        command = [needed("buildah"), *where, *arguments]
        # Where `RUN --mount=type=cache` keeps gigabytes.
        caches = os.environ | {"TMPDIR": str(self.folder)}
        return subprocess.run(
            command, cwd=ROOT, env=caches, capture_output=True, text=True, timeout=limit_s, check=False
        )

    def __call__(self, *arguments: str, limit_s: float = 1200) -> str:
        done = self.run(*arguments, limit_s=limit_s)
        assert done.returncode == 0, f"buildah {' '.join(arguments)}: {(done.stdout + done.stderr)[-3000:]}"
        return done.stdout.strip()

    def build(self, file: str, context: Path, tag: str, **variables: str) -> subprocess.CompletedProcess[str]:
        # The stage that is taken follows from a build argument, which buildah does not see beforehand.
        how = ("bud", "--skip-unused-stages=false", "--isolation=chroot", "--network=host", "--pull-never")
        sets = [f"--build-arg={name}={value}" for name, value in variables.items()]
        return self.run(*how, f"--file={ROOT / file}", f"--tag={tag}", *sets, str(context))


@dataclass(frozen=True)
class Container:
    """One of an image, as the user of the image."""

    buildah: Buildah
    name: str

    def __call__(self, *command: str) -> str:
        return self.buildah("run", "--isolation=chroot", "--user=10001:10001", self.name, "--", *command)


def make_base(buildah: Buildah, folder: Path) -> None:
    """The base image from its registry, or one that stands in for it."""
    try:
        if buildah.run("pull", "--quiet", BASE, limit_s=60).returncode == 0:
            return
    except subprocess.TimeoutExpired:
        pass
    packages = "--include=ca-certificates,netbase,python3,python3-venv,tzdata"
    link = '--customize-hook=ln -s /usr/bin/python3 "$1/usr/local/bin/python"'
    archive = folder / "base.tar"
    subprocess.run(
        [needed("mmdebstrap"), "--quiet", "--variant=minbase", packages, link, "bookworm", str(archive)],
        check=True,
        timeout=600,
    )
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(archive), "/")
    buildah("copy", "--quiet", container, CERTIFICATES, CERTIFICATES)
    path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    for variable in (
        f"PATH={path}",
        "LANG=C.UTF-8",
        f"SSL_CERT_FILE={CERTIFICATES}",
        f"PIP_CERT={CERTIFICATES}",
    ):
        buildah("config", "--env", variable, container)
    buildah("commit", "--quiet", "--rm", container, BASE)
    archive.unlink()


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    """With the service's image, for CPUs."""
    for tool in ("buildah", "mmdebstrap"):
        needed(tool)
    folder = Path(tempfile.mkdtemp(prefix="virnucpro-images-", dir="/var/tmp"))
    made = Buildah(folder)
    try:
        make_base(made, folder)
        built = made.build("deploy/docker/Dockerfile", ROOT, IMAGE)
        assert built.returncode == 0, (built.stdout + built.stderr)[-3000:]
        yield made
    finally:
        made.run("rm", "--all")
        made.run("rmi", "--all", "--force")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def container(buildah: Buildah) -> Iterator[Container]:
    name = buildah("from", "--pull-never", IMAGE)
    yield Container(buildah, name)
    buildah("rm", name)


def test_it_starts_the_service_as_a_user_who_may_write_nothing_but_its_state(container):
    config = json.loads(container.buildah("inspect", container.name))["OCIv1"]["config"]
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == ("10001:10001", ["virnucpro"], ["serve"])
    assert container("virnucpro", "--version") == f"virnucpro-stream {__version__}"
    everywhere = (
        "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' -not -path '/sys/*'"
    )
    assert set(container("sh", "-c", f"{everywhere} -type d 2> /dev/null || true").splitlines()) <= {
        *("/tmp", "/var/tmp", "/run/lock", "/var/lib/virnucpro"),
    }
    assert container("sh", "-c", "command -v pip curl gcc uv || true") == ""


def test_it_predicts_what_the_repository_predicts(container):
    there = container("virnucpro", "predict", "/usr/share/virnucpro/sample.fasta", "--quiet")
    here = subprocess.run(
        [ROOT / ".venv/bin/virnucpro", "predict", ROOT / "consumer/data/sample.fasta", "--quiet"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert there.splitlines() == here.stdout.strip().splitlines()
    assert len(there.splitlines()) > 40


def test_it_serves_answers_its_probe_and_ends_in_time(container):
    assert container("sh", "-c", SERVED).splitlines()[:3] == ["ready", "alive", "exit 0"]


def test_a_bundle_is_baked_in(buildah):
    bundle = ROOT / "virnucpro_core/data/bundles/nano-300"
    done = buildah.build("deploy/docker/bundle.Dockerfile", bundle, BUNDLED, IMAGE=IMAGE)
    assert done.returncode == 0, done.stderr[-2000:]
    name = buildah("from", "--pull-never", BUNDLED)
    try:
        assert "nano-300" in Container(buildah, name)(
            "sh", "-c", 'virnucpro models verify "$VIRNUCPRO_MODEL"'
        )
    finally:
        buildah("rm", name)


def test_a_folder_that_is_no_bundle_ends_the_build(buildah, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    done = buildah.build("deploy/docker/bundle.Dockerfile", tmp_path, BUNDLED + "-not", IMAGE=IMAGE)
    assert done.returncode != 0
    assert "manifest.json" in done.stdout + done.stderr


def test_the_cuda_image_has_the_compiler_and_the_libraries_that_its_kernels_need(buildah):
    done = buildah.build("deploy/docker/Dockerfile", ROOT, IMAGE + "-cuda", DEVICE="cuda")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    name = buildah("from", "--pull-never", IMAGE + "-cuda")
    try:
        imports = "import torch, triton; print(torch.version.cuda is not None)"
        run = Container(buildah, name)
        assert run("python", "-c", imports) == "True"
        assert run("sh", "-c", "command -v gcc") == "/usr/bin/gcc"
        assert run("sh", "-c", "echo $TRITON_CACHE_DIR") == "/tmp/triton"
    finally:
        buildah("rm", name)
