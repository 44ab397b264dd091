"""examples/pipelines: the engines of pipelines run the process, the task and the rule, and MultiQC reads the counts.

The engines are installed once, into .scratch; where that fails, their tests are skipped with the reason.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from consumer.cli.app import run
from tests.support.harness import ROOT, environment
from virnucpro_core import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PIPELINES, SUPPORT, SCRATCH = ROOT / "examples/pipelines", ROOT / "tests/support/pipelines", ROOT / ".scratch"
BIN = ROOT / ".venv/bin"
SAMPLES = {"a": 2, "b": 1}
"""Records of each."""
_INSTALL_S, _RUN_S = 240, 240
OPENED = ("lang", "io", "nio", "net", "util", "util.concurrent")
"""Packages of Java that Nextflow looks into."""


def sequences_of(sample: str) -> str:
    records = (ROOT / "consumer/data/sample.fasta").read_text().split(">")[1:]
    return "".join(f">{record}" for record in sorted(records, key=len)[: SAMPLES[sample]])


@contextmanager
def installing(name: str, done: Callable[[], bool]) -> Iterator[bool]:
    """One test process at a time; gives whether it must install."""
    SCRATCH.mkdir(exist_ok=True)
    with (SCRATCH / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done()


def installed(command: list[str | Path], folder: Path) -> None:
    """Skip the tests if an engine is not to be had here."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} not found")
    found = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_S, check=False
    )
    if found.returncode:
        said = " ".join((found.stdout + found.stderr).split())
        pytest.skip(f"the engines cannot be installed: {said[:300]}")


@pytest.fixture(scope="session")
def engines() -> Path:
    """The folder of the programs of Snakemake, miniwdl and MultiQC."""
    wanted, home = SUPPORT / "engines.txt", SCRATCH / "pipelines"
    mark = home / "engines.txt"
    with installing(
        "pipelines", lambda: mark.is_file() and mark.read_text() == wanted.read_text()
    ) as missing:
        if missing:
            installed([BIN / "uv", "venv", "--clear", "--python", BIN / "python", home], ROOT)
            installed([BIN / "uv", "pip", "install", "--python", home / "bin/python", "-r", wanted], ROOT)
            shutil.copyfile(wanted, mark)
    return home / "bin"


@pytest.fixture(scope="session")
def nextflow() -> list[str]:
    """The command line of Nextflow."""
    jars = SCRATCH / "nextflow"
    mark = jars / "pom.xml"
    wanted = SUPPORT / "pom.xml"
    with installing("nextflow", lambda: mark.is_file() and mark.read_text() == wanted.read_text()) as missing:
        if missing:
            jars.mkdir(exist_ok=True)
            goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
            installed(["mvn", "-B", "-q", "-f", str(wanted), *goal], ROOT)
            shutil.copyfile(wanted, mark)
    opened = [f"java.base/java.{package}=ALL-UNNAMED" for package in OPENED]
    opened += [f"java.base/sun.nio.{package}=ALL-UNNAMED" for package in ("ch", "fs")]
    options = [word for package in opened for word in ("--add-opens", package)]
    return ["java", "-XX:TieredStopAtLevel=1", *options, "-cp", f"{jars}/*", "nextflow.cli.Launcher"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The table of each sample, by `predict` alone."""
    tables = {}
    folder = tmp_path_factory.mktemp("expected")
    for sample in SAMPLES:
        path = folder / f"{sample}.fasta"
        path.write_text(sequences_of(sample))
        assert run(["predict", str(path), "-o", str(folder / sample), "--device", "cpu", "--quiet"]) == 0
        tables[sample] = (folder / sample).read_text()
    return tables


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the samples."""
    folder = tmp_path / "data"
    folder.mkdir()
    for sample in SAMPLES:
        (folder / f"{sample}.fasta.gz").write_bytes(gzip.compress(sequences_of(sample).encode()))
    return folder


def ran(command: list[str | Path], folder: Path, **variables: str) -> str:
    known = {"PATH": f"{BIN}:{os.environ['PATH']}", "VIRNUCPRO_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        command,
        cwd=folder,
        env=environment(**known, **variables),
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


def test_snakemake_runs_the_rule(
    engines: Path, data: Path, expected: Mapping[str, str], tmp_path: Path
) -> None:
    (data / "a.fasta.gz").unlink()  # one job is enough
    config = ["--config", f"reads={data}", f"results={tmp_path / 'results'}"]
    command = [engines / "snakemake", "-s", PIPELINES / "snakemake/Snakefile", "--cores", "1", *config]
    ran(command, tmp_path)
    assert (tmp_path / "results/b.tsv").read_text() == expected["b"]
    assert not list(tmp_path.glob("results/*.journal"))


def test_miniwdl_accepts_and_runs_the_task(
    engines: Path, data: Path, expected: Mapping[str, str], tmp_path: Path
) -> None:
    wdl = PIPELINES / "wdl/virnucpro.wdl"
    ran([engines / "miniwdl", "check", "--strict", "--no-shellcheck", wdl], tmp_path)
    inputs = [f"sequences={data / 'b.fasta.gz'}", "sample=b", "threads=1"]
    # The task runs directly on this machine: the tests have no container engine.
    where = {"MINIWDL__SCHEDULER__CONTAINER_BACKEND": "bare"}
    ran(
        [engines / "miniwdl", "run", wdl, *inputs, "--dir", f"{tmp_path}/run/.", "-o", "out.json"],
        tmp_path,
        **where,
    )
    outputs = json.loads((tmp_path / "out.json").read_text())["outputs"]
    assert Path(outputs["virnucpro_predict.table"]).read_text() == expected["b"]
    assert set(outputs) == {
        f"virnucpro_predict.{name}" for name in ("table", "viruses", "rejected", "summary", "multiqc")
    }


def test_nextflow_runs_the_process_and_multiqc_reads_the_counts(
    nextflow: list[str], engines: Path, data: Path, expected: Mapping[str, str], tmp_path: Path
) -> None:
    arguments = ["--reads", f"{data}/*.fasta.gz", "--outdir", str(tmp_path / "results")]
    home = {"NXF_OFFLINE": "true", "NXF_HOME": str(tmp_path / "home")}
    ran([*nextflow, "-q", "run", str(PIPELINES / "nextflow/main.nf"), *arguments], tmp_path, **home)
    results = tmp_path / "results"
    assert {sample: (results / f"{sample}.tsv").read_text() for sample in SAMPLES} == expected
    ran(
        [engines / "multiqc", "--strict", "--no-version-check", "--outdir", tmp_path / "report", results],
        tmp_path,
    )
    table = (tmp_path / "report/multiqc_data/multiqc_virnucpro_table.txt").read_text().splitlines()
    header, *rows = (line.split("\t") for line in table)
    assert header == ["Sample", "records", "scored", "virus", "viral_call", "ambiguous_call", "left_out"]
    assert {row[0]: int(float(row[1])) for row in rows} == SAMPLES


# conda package, where its name differs
OF_CONDA = {
    "confluent-kafka": "python-confluent-kafka",
    "prometheus-client": "prometheus_client",
    "torch": "pytorch",
    "zlib-ng": "python-zlib-ng",
}


def test_the_recipe_has_the_project_s_version_requirements_and_command() -> None:
    """Bioconda's linter is not on the package index (examples/pipelines/README.md); this holds the recipe to
    pyproject.toml."""
    text = (PIPELINES / "bioconda/meta.yaml").read_text()
    names = dict(re.findall(r'{% set (\w+) = "(.+)" %}', text))
    assert names == {"name": "virnucpro-stream", "version": __version__}
    rendered = "\n".join(line for line in text.splitlines() if not line.startswith("{%"))
    for name, value in {**names, "PYTHON": "python"}.items():
        rendered = rendered.replace(f"{{{{ {name} }}}}", value)
    rendered = re.sub(r"{{ pin_subpackage\(.+\) }}", "virnucpro-stream", rendered)
    recipe = yaml.safe_load(rendered)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"python " + project["requires-python"]}
    for dependency in project["dependencies"]:
        name, bound = re.fullmatch(r"([\w.-]+)([>=]=[\d.]+)(?:;.*)?", dependency).groups()
        wanted.add(f"{OF_CONDA.get(name, name)} {bound}")
    assert set(recipe["requirements"]["run"]) == wanted
    assert recipe["build"]["noarch"] == "python"
    (command,) = recipe["build"]["entry_points"]
    assert command == f"virnucpro = {project['scripts']['virnucpro']}"
    assert recipe["about"]["license"] == project["license"]
