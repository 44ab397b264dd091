"""The lines for kcat and avro-tools in docs/contract.md do what is said of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.harness import ROOT, NoopServe, serving
from tests.support.kafka.job import Job

pytestmark = pytest.mark.slow

AVRO_TOOLS = "1.12.2"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
_FETCH_S, _RUN_S = 300, 60


def blocks() -> list[str]:
    """The commands under "From a shell", in their order."""
    guide = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    section = guide.partition("### From a shell\n")[2]
    return [match.group() for match in re.finditer(r"(?:^ {4}.*\n)+", section, re.MULTILINE)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the schemas and avro-tools."""
    absent = [tool for tool in ("kcat", "java", "mvn") if shutil.which(tool) is None]
    if absent:
        pytest.skip(f"{' and '.join(absent)} not found")
    (tmp_path / "schemas").symlink_to(ROOT / "schemas")
    artifact = f"-Dartifact=org.apache.avro:avro-tools:{AVRO_TOOLS}"
    command = ["mvn", "-B", "-q", _COPY, artifact, f"-DoutputDirectory={tmp_path}"]
    for attempt in ([*command, "-o"], command):
        done = subprocess.run(
            attempt, cwd=tmp_path, capture_output=True, text=True, timeout=_FETCH_S, check=False
        )
        if not done.returncode:
            return tmp_path
    pytest.skip(f"Maven cannot fetch avro-tools {AVRO_TOOLS}: {(done.stdout + done.stderr)[:500]}")


def shell(lines: str, folder: Path, job: Job) -> str:
    """What the lines print, with the broker and the topics of a job in place of those of the guide."""
    lines = lines.replace("localhost:9092", job.bootstrap)
    lines = lines.replace("-t sequences", f"-t {job.name}.in").replace("-t predictions", f"-t {job.name}.out")
    command = ["bash", "-euo", "pipefail", "-c", lines]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_RUN_S, check=False)
    assert done.returncode == 0, f"{lines}{done.stderr}"
    return done.stdout


def test_records_are_published_and_predictions_read_from_a_shell(job, folder, tmp_path):
    show_headers, show_json, publish_avro, publish_json = blocks()
    shell(publish_avro, folder, job)
    shell(publish_json, folder, job)
    variables = job.worker(0) | {"VIRNUCPRO_INPUT_FORMAT": "auto"}
    with serving(tmp_path / "serve.log", kind=NoopServe, **variables):
        job.finish(2)
    lines = shell(show_headers, folder, job).splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(rf"x vnp-source={job.name}\.in/\d/\d+", line) for line in lines)
    prediction = json.loads(shell(show_json, folder, job))
    assert (prediction["id"], prediction["length"], prediction["verdict"]) == ("x", 11, "virus")
    assert job.read_all("dlq") == []
