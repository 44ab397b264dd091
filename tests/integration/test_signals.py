"""SIGTERM and SIGINT: at once before serving, a drain after, the spot at the second, a watchdog behind all."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, time
from consumer.ops.signals import StopSignals
with StopSignals({patience}) as stop:
    if {serving}:
        stop.serving()
    for _ in range({signals}):
        os.kill(os.getpid(), signal.{number})
    end = time.monotonic() + 20
    while time.monotonic() < end and not ({drains} and stop.asked()):
        time.sleep(0.01)
print("drained")
sys.exit(7)
"""


def run(**values: object) -> tuple[int, str]:
    values = {"patience": 30, "serving": True, "signals": 1, "number": "SIGTERM", "drains": True} | values
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(**values)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_the_first_signal_asks_for_a_drain(number):
    assert run(number=number) == (7, "drained")


def test_before_serving_a_signal_ends_the_process_in_order():
    assert run(serving=False, drains=False) == (0, "")


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_the_second_signal_ends_it_on_the_spot_with_its_own_code(number, code):
    assert run(signals=2, drains=False, number=number) == (code, "")


def test_the_watchdog_ends_a_drain_that_never_ends():
    assert run(patience=0.3, drains=False) == (1, "")
