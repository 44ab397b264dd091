"""Where the tools are, and how one is run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/virnucpro-stream"
FOLDER = Path(
    os.environ.get("DEPLOY_TOOLS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "virnucpro-stream/deploy-tools"
)
"""What deploy/tools.sh filled."""
_PLACES = (FOLDER / "bin", FOLDER / "venv/bin")


def found(tool: str) -> str | None:
    """The path of a tool, if it is here."""
    own = next((str(place / tool) for place in _PLACES if (place / tool).exists()), None)
    return own or shutil.which(tool)


def needed(tool: str) -> str:
    """The path of a tool; without it the test is skipped."""
    path = found(tool)
    if path is None and tool == "helm-or-renderer":
        # `tests/deploy/renderer` is helm's engine and takes these arguments too.
        path = found("helm") or found("helm-template")
    if path is None:
        pytest.skip(f"{tool} not found: `make check-deploy` gets it")
    return path


def run(tool: str, *arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool in the repository; its output is not checked."""
    return subprocess.run(
        [needed(tool), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )


def passes(tool: str, *arguments: str | Path, stdin: str | None = None) -> str:
    """The output of a tool that must succeed."""
    done = run(tool, *arguments, stdin=stdin)
    assert done.returncode == 0, f"{tool}: {done.stdout}{done.stderr}"
    return done.stdout
