"""Linters over the files of deploy/ and the scripts of the repository."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.tools import ROOT, passes, run

UNIT = ROOT / "deploy/systemd/virnucpro@.service"
DOCKERFILES = sorted((ROOT / "deploy/docker").glob("*Dockerfile"))


def scripts() -> list[Path]:
    """Shell scripts that git knows of, by name or first line."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    first_lines = {
        path: path.read_bytes().partition(b"\n")[0]
        for path in map(ROOT.joinpath, listed.splitlines())
        if path.suffix in ("", ".sh") and path.is_file()
    }
    return [path for path, first in first_lines.items() if re.match(rb"#!.*\b(ba)?sh\b", first)]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint(path):
    passes("hadolint", path)


def test_shellcheck():
    assert {path.name for path in scripts()} >= {"run", "install.sh", "tools.sh"}
    passes("shellcheck", "--external-sources", *scripts())


def test_yamllint():
    passes("yamllint", "--strict", "--config-file", ROOT / "deploy/.yamllint.yaml", ROOT / "deploy")


def test_systemd():
    """The exposure, of 10, is what systemd's own check of the hardening gives."""
    passes("systemd-analyze", "security", "--offline=true", "--threshold=30", UNIT)


def test_systemd_knows_every_line_of_the_unit(tmp_path):
    program = tmp_path / "virnucpro"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "virnucpro@0.service"
    unit.write_text(UNIT.read_text().replace("/opt/virnucpro/bin/virnucpro", str(program)))
    done = run("systemd-analyze", "verify", unit)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_locked_dependencies_have_wheels_for_arm64(tmp_path):
    """The image takes wheels only. Resolved on the package index, nothing is downloaded."""
    passes(
        str(Path(sys.executable).with_name("uv")),
        *("pip", "install", "--dry-run", "--target", tmp_path),
        *("--python-platform", "aarch64-unknown-linux-gnu", "--python-version", "3.11"),
        *("--only-binary", ":all:", "--require-hashes", "-r", ROOT / "requirements/run.txt"),
    )
