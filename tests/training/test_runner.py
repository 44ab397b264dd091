"""Commands that run side by side, one a device."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from pathlib import Path

from training.runs.runner import TOO_LATE, Runner, command


def test_a_command_that_runs_is_ended_at_the_deadline_and_none_begins_after_it(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    os.mkfifo(recipe)  # no process writes to it, so that its reader waits
    given = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--recipe", str(recipe)]
    started = time.monotonic()
    assert command("runs.pretrain", given, tmp_path / "log", "cpu", 0.3) == TOO_LATE
    assert time.monotonic() - started < 30
    assert command("runs.pretrain", given, tmp_path / "other" / "log", "cpu", 0.0) == TOO_LATE
    assert not (tmp_path / "other").exists()


def test_what_a_command_prints_is_kept_and_its_last_line_says_why_it_failed(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log"
    missing = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert command("runs.pretrain", ["--help"], log, "cpu", 60) == ""
    failure = command("runs.pretrain", missing, log, "cpu", 60)
    assert f"{tmp_path}/genomes.npz is not there" in failure
    assert failure.startswith(f"{log}: ")
    assert "usage:" in log.read_text(), "what was there stays"


def test_a_device_has_one_job_at_a_time_all_are_used_and_a_job_waits_for_the_one_it_needs() -> None:
    running: list[str] = []
    seen: set[str] = set()
    finished: list[int] = []
    both = threading.Barrier(2)

    def job(number: int, device: str, left: float) -> None:
        assert device not in running
        assert left <= 100
        assert number < 10 or number // 10 - 1 in finished
        running.append(device)
        seen.add(device)
        both.wait(20)
        running.remove(device)
        finished.append(number)

    Runner(["cuda:0", "cuda:1"], 100).run(
        (partial(job, number), [partial(job, 10 * (number + 1) + other) for other in range(2)])
        for number in range(4)
    )
    assert seen == {"cuda:0", "cuda:1"}
    assert sorted(finished) == [0, 1, 2, 3, 10, 11, 20, 21, 30, 31, 40, 41]
