"""A command whose reader goes away, and one that is interrupted, as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_pipe_whose_reader_is_gone_ends_quietly():
    done = subprocess.run(
        f"{sys.executable} -m consumer.cli.app frames consumer/data/sample.fasta | head -1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_ctrl_c_is_exit_code_130_without_a_traceback(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = subprocess.Popen(
        [sys.executable, "-m", "consumer.cli.app", "frames", str(pipe)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    with pipe.open("w"):  # opens once the command reads
        child.send_signal(2)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Traceback" not in err
