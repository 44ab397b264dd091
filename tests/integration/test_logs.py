"""What gets to stderr, in a separate process, since logging belongs to the whole process."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from consumer.ops.logs import Repeats
from tests.support.factories import FakeClock

ROOT = Path(__file__).parents[2]
SAY = """
import logging, structlog, sys
from consumer.ops.logs import configure
configure({level!r}, {fmt!r})
log = structlog.get_logger("consumer.service")
log.debug("hidden", n=0)
log.info("batch %s", "done", records=3, key="k\\x1b[2J\\nFORGED \\u202e")
logging.getLogger("librdkafka").warning("FAIL %s", "broker down")
logging.getLogger("uvicorn.error").info("chatter")
try:
    raise ZeroDivisionError("x\\x1b[2J")
except ZeroDivisionError:
    log.exception("failed")
print("result")
"""


def say(level: str, fmt: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", SAY.format(level=level, fmt=fmt)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("fmt", ["json", "auto"])
def test_json_has_one_object_a_line_and_stdout_stays_clean(fmt):
    out, err = say("info", fmt)
    assert out == "result\n"
    batch, kafka, failed = map(json.loads, err.splitlines())
    assert (batch["event"], batch["records"], batch["level"]) == ("batch done", 3, "info")
    assert batch["logger"] == "consumer.service"
    assert batch["timestamp"].endswith("Z")
    assert (kafka["event"], kafka["message"], kafka["level"]) == ("librdkafka", "FAIL broker down", "warning")
    assert "ZeroDivisionError" in failed["exception"]


def test_the_level_is_a_threshold():
    assert "hidden" in say("debug", "json")[1]
    events = [json.loads(line)["event"] for line in say("warning", "json")[1].splitlines()]
    assert events == ["librdkafka", "failed"]


def test_console_is_for_people():
    _, err = say("info", "console")
    line = err.splitlines()[0]
    assert "batch done" in line
    assert "records=3" in line
    assert not line.startswith("{")
    assert "\x1b" not in err  # no colours where there is no terminal, and no codes from what others wrote
    assert "u001b[2J" in line
    assert "FORGED" in line
    assert "Traceback" in err
    assert r"ZeroDivisionError: x\u001b[2J" in err


def test_lines_that_differ_in_numbers_alone_come_once_in_half_a_minute():
    clock = FakeClock()
    repeats = Repeats(clock)

    def passes(text: str) -> bool:
        return bool(repeats.filter(logging.LogRecord("librdkafka", logging.ERROR, "", 0, text, (), None)))

    assert passes("FAIL port 9092 after 1 ms")
    assert not passes("FAIL port 9092 after 25 ms")
    assert passes("FAIL of another kind")
    clock.advance(31)
    assert passes("FAIL port 9092 after 3 ms")
