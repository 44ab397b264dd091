"""What a result was measured on, and the files that results are kept in."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
NOT_RUN = "not run"
"""The key of what could not be run, in any result: by name, why."""
_PACKAGES = ("torch", "triton", "numpy", "fair-esm", "confluent-kafka")


def about(packages: Iterable[str] = ()) -> dict[str, Any]:
    """The commit, the machine, its load at this moment, and the versions of packages.

    `BENCH_COMMIT` in the environment names the commit where the files are not in a git repository.
    """
    return {
        "commit": os.environ.get("BENCH_COMMIT") or commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": gpu(),
        "versions": {"python": platform.python_version()}
        | {package: version_of(package) for package in (*_PACKAGES, *packages)},
    }


def commit() -> str:
    """What git calls the files, or "unknown"."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name, as Linux has it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gpu() -> str | None:
    """The GPU's name and driver; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def version_of(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)


def figure(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """The median of repeated measurements and its spread, in significant digits."""
    return {
        "median": float(f"{statistics.median(values):.{digits}g}"),
        "lowest": float(f"{min(values):.{digits}g}"),
        "highest": float(f"{max(values):.{digits}g}"),
    }


def save(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write `folder`/`name`.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def cpu_seconds(pid: int | str) -> float:
    """Processor time that a process has used, in user mode and in the kernel; with `PID/task/TID` a thread."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
