"""What is installed from the wheel works on its own, away from the source: all else here tests the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.harness import ROOT, Serve, environment, serving

PACKAGES = ("consumer", "schemas", "virnucpro_client", "virnucpro_core")
_DATA = (
    "consumer/data/sample.fasta",
    "schemas/avsc/prediction.avsc",
    "schemas/history/prediction/v1.avsc",
    "virnucpro_core/data/bundles/nano-500/manifest.json",
    "virnucpro_core/data/bundles/nano-300/esm2.safetensors",
    "virnucpro_core/data/reference/features.npy",
)


def run(command: Sequence[str | Path], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel is built from, copied: a build leaves files in the tree, and takes up those of earlier ones."""
    folder = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the locked setuptools and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    run([sys.executable, "-m", "pip", "wheel", *options, str(source)], folder)
    (built,) = folder.glob("*.whl")
    return built


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel in it, and a folder outside the checkout to work in."""

    bin: Path
    packages: Path
    work: Path

    def virnucpro(self, *arguments: str) -> str:
        """The output of a command that succeeds."""
        return run([self.bin / "virnucpro", *arguments], self.work)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a fresh environment, which sees the locked dependencies of this one by a path file.

    Python reads no further path files in a folder named by one, so the editable install of the project is not seen.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv, work = folder / "venv", folder / "work"
    work.mkdir()
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)], folder)
    python = str(venv / "bin" / "python")
    packages = Path(
        run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    )
    options = ["--no-index", "--no-deps", "--no-compile"]
    run([sys.executable, "-m", "pip", "--python", python, "install", *options, str(wheel)], folder)
    locked = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "locked.pth").write_text("".join(f"{path}\n" for path in sorted(locked)))
    return Installed(venv / "bin", packages, work)


def test_the_wheel_installs_these_packages_and_no_other_name(installed):
    names = {path.name for path in installed.packages.iterdir() if path.suffix not in (".dist-info", ".pth")}
    assert names == set(PACKAGES)


def test_every_file_of_the_packages_is_in_the_wheel(source, wheel):
    written = {
        path.relative_to(source).as_posix()
        for name in PACKAGES
        for path in (source / name).rglob("*")
        if path.is_file()
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == written
    assert packed.issuperset(_DATA)


def test_the_packages_are_those_of_the_wheel(installed):
    code = f"import json, {', '.join(PACKAGES)}; print(json.dumps([{', '.join(f'{p}.__file__' for p in PACKAGES)}]))"
    files = json.loads(run([installed.bin / "python", "-c", code], installed.work))
    assert [Path(file).parent.parent for file in files] == [installed.packages] * len(PACKAGES)


def test_demo_scores_its_sample(installed):
    assert "40 records, 95,420 bases" in installed.virnucpro("demo")


def test_predict_answers_for_a_file(installed):
    sample = (installed.packages / "consumer" / "data" / "sample.fasta").read_text()
    records = sample.split(">")[1:4]
    (installed.work / "small.fasta").write_text("".join(f">{record}" for record in records))
    lines = installed.virnucpro("predict", "small.fasta", "--format", "jsonl").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [record.split()[0] for record in records]


def test_serve_becomes_ready_and_stops_when_asked_to(installed, tmp_path):
    class InstalledServe(Serve):
        command = (str(installed.bin / "virnucpro"), "serve")
        folder = installed.work

    with serving(tmp_path / "serve.log", kind=InstalledServe) as serve:
        assert serve.get("/readyz")[0] == 200
        assert serve.stop() == 0, serve.log.read_text()
