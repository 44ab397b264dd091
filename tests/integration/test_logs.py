"""What gets to stderr, in a separate process, since logging belongs to the whole process."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from consumer.config.secrets import hide
from consumer.ops.logs import Repeats, configure
from tests.support.factories import FakeClock

ROOT = Path(__file__).parents[2]
SAY = """
import logging, structlog, sys
from consumer.ops.logs import configure
configure({level!r}, {fmt!r})
log = structlog.get_logger("consumer.service")
log.debug("hidden", n=0)
log.info("batch %s", "done", records=3, key="k\\x1b[2J\\nFORGED \\u202e")
client = "rdkafka#consumer-1"
logging.getLogger("librdkafka").warning("%s [%s] %s", "FAIL", client, "[thrd:b/bootstrap]: b: broker down")
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
    assert kafka["event"] == kafka["logger"] == "librdkafka"
    assert (kafka["facility"], kafka["client"]) == ("FAIL", "rdkafka#consumer-1")
    assert (kafka["message"], kafka["level"]) == ("b: broker down", "warning")
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


class Lines(logging.Handler):
    """Keeps what gets through, by the formatter and the filters that `configure` sets up."""

    def __init__(self) -> None:
        super().__init__()
        (configured,) = logging.getLogger().handlers
        self.setFormatter(configured.formatter)
        self.filters = list(configured.filters)
        self.lines: list[dict[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def lines() -> Iterator[list[dict[str, str]]]:
    root = logging.getLogger()
    before, level, ours = list(root.handlers), root.level, structlog.get_config()
    configure("info", "json")
    handler = Lines()
    root.handlers[:] = [handler]
    yield handler.lines
    root.handlers[:] = before
    root.setLevel(level)
    structlog.configure(**ours)


def test_lines_of_a_library_that_differ_in_numbers_alone_come_once_in_half_a_minute():
    clock = FakeClock()
    repeats = Repeats(clock)

    def passes(text: object, name: str = "librdkafka") -> bool:
        return bool(repeats.filter(logging.LogRecord(name, logging.ERROR, "", 0, text, (), None)))

    assert passes("FAIL port 9092 after 1 ms")
    assert not passes("FAIL port 9092 after 25 ms")
    assert passes("FAIL port 9092 after 1 ms", name="asyncio")
    assert passes("socket at 0x7fa0", name="asyncio")
    assert not passes("socket at 0x7bbb", name="asyncio")
    assert passes("FAIL of another kind")
    assert all(passes({"event": "paused", "records": 1}) for _ in range(3)), "our own lines are not repeats"
    clock.advance(31)
    assert passes("FAIL port 9092 after 3 ms")


GUESSES = [
    (
        "b:9092/bootstrap: Disconnected: requesting ApiVersion: might be caused by incorrect security.protocol "
        "configuration (connecting to a SSL listener?) or broker version is < 0.10 (see api.version.request) "
        "(after 3ms in state APIVERSION_QUERY)",
        "b:9092/bootstrap: Disconnected: requesting ApiVersion (after 3ms in state APIVERSION_QUERY)",
    ),
    (
        "ApiVersionRequest failed: Local: Timed out: probably due to broker version < 0.10 (see api.version.request "
        "configuration) (after 1ms in state X)",
        "ApiVersionRequest failed: Local: Timed out (after 1ms in state X)",
    ),
    (
        "b: Disconnected: verify that security.protocol is correctly configured, broker might require SASL "
        "authentication (after 9ms in state UP)",
        "b: Disconnected (after 9ms in state UP)",
    ),
    (
        "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener? (after 2ms in state UP)",
        "SSL handshake failed: Disconnected (after 2ms in state UP)",
    ),
    ("Response for unknown CorrId 7 (timed out?)", "Response for unknown CorrId 7"),
    ("Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",) * 2,
]


@pytest.mark.parametrize(("written", "shown"), GUESSES)
def test_what_librdkafka_guesses_is_left_out(lines, written, shown):
    logging.getLogger("librdkafka").error("%s [%s] %s", "FAIL", "rdkafka#producer-2", f"[thrd:x]: {written}")
    (line,) = lines
    assert (line["event"], line["facility"], line["client"]) == ("librdkafka", "FAIL", "rdkafka#producer-2")
    assert line["message"] == shown


def test_no_line_shows_a_secret_whoever_writes_it(lines):
    command = "echo s3cr3t-1 | kinit %{sasl.kerberos.principal}"
    hide(command)
    hide("https://idp:s3cr3t-2@example.org/token?key=s3cr3t-3")
    logging.getLogger("librdkafka").error(
        "%s [%s] %s", "SASL", "rdkafka#consumer-1", "echo s3cr3t-1 | kinit alice failed"
    )
    logging.getLogger("other").error("https://idp:s3cr3t-2@example.org/token?key=s3cr3t-3 does not answer")
    log = structlog.get_logger("consumer.kafka.cluster")
    log.warning("kafka_client_error", error="no token from idp:s3cr3t-2 (https)")
    try:
        raise ValueError(command)
    except ValueError:
        log.exception("failed")
    assert len(lines) == 4
    assert "s3cr3t" not in json.dumps(lines)
    assert lines[2]["event"] == "kafka_client_error"
