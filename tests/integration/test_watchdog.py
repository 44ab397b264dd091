"""The watchdog of the loop: it ends a process whose loop hangs, and no other."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading

from consumer.ops.watchdog import LoopWatchdog

HANGING = """
import time
from consumer.ops import logs
from consumer.ops.watchdog import LoopWatchdog
logs.configure("info", "json")
with LoopWatchdog(lambda: 1, patience=3, tick_s=0.05):
    time.sleep(60)
"""


def test_a_loop_that_hangs_ends_the_process_with_its_code_and_says_where():
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 4
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["event"], line["exit_code"]) == ("loop_hangs", 4)
    assert 'File "<string>", line 7' in line["threads"], "the place where it hangs"
    assert line["threads"].startswith("MainThread:") or "\nMainThread:" in line["threads"]


def test_a_loop_that_turns_is_left_alone():
    ended = threading.Event()
    turns = itertools.count()
    with LoopWatchdog(lambda: next(turns), patience=2, tick_s=0.005, end=ended.set):
        assert not ended.wait(0.3)


def test_a_slow_turn_is_forgiven():
    ended = threading.Event()
    looks = iter([1, *[1] * 4, 2, *[2] * 4, *range(3, 10_000)])
    with LoopWatchdog(lambda: next(looks), patience=5, tick_s=0.002, end=ended.set):
        assert not ended.wait(0.2)


def test_what_need_not_turn_is_left_alone():
    ended = threading.Event()
    with LoopWatchdog(lambda: None, patience=2, tick_s=0.005, end=ended.set):
        assert not ended.wait(0.2)
