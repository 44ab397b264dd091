"""How much memory `predict` takes beside torch, measured on a child process; the figures are in docs/cli.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.records import reads

_PREDICT_AND_MEASURE = """
import sys
import torch
from consumer.cli.app import run
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
imported = peak()
code = run(sys.argv[1:])
print(code, imported, peak())
"""
MB = 1000
"""Kilobytes."""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is read from /proc")
def test_a_file_of_reads_takes_little_more_memory_than_torch(tmp_path: Path) -> None:
    """140 MB of it for a file of any length; torch's compiler, where a model loads it, takes 150 more."""
    path = tmp_path / "reads.fasta"
    path.write_text("".join(f">{record_id}\n{letters}\n" for record_id, letters in reads(200)))
    command = ["predict", str(path), "--device", "cpu", "--threads", "2", "-o", str(tmp_path / "reads.tsv")]
    done = subprocess.run(
        [sys.executable, "-c", _PREDICT_AND_MEASURE, *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    code, imported, peak = map(int, done.stdout.split())
    assert code == 0
    assert 100 * MB < imported < peak < imported + 220 * MB
