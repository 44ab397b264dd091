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
    """The peak is that of importing torch: what the model takes is less than what is given back of the libraries."""
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
    assert 100 * MB < imported < peak < imported + 80 * MB


_RELEASE_AND_COMPUTE = """
import torch
from virnucpro_core.library_pages import release_library_pages
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssFile"))
before = resident()
release_library_pages()
after = resident()
product = torch.arange(6.0).reshape(2, 3) @ torch.ones(3, 2)
print(before, after, int(product.sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_torch_computes_after_the_memory_of_its_libraries_was_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RELEASE_AND_COMPUTE], capture_output=True, text=True, timeout=100, check=True
    )
    before, after, total = map(int, done.stdout.split())
    assert after < before // 2
    assert total == 2 * sum(range(6))
