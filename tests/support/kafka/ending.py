"""A service that ends by itself, as it must: what it says at the end, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Iterable

from consumer.errors import ExitCode
from tests.support.harness import WAIT_S, Serve


def last_words(serve: Serve, secrets: Iterable[str] = ()) -> str:
    """Wait for the end of a service that something outside refuses; returns the error in the last line of its log."""
    try:
        code = serve.process.wait(WAIT_S)
    finally:
        serve.close()
    said = serve.log.read_text()
    assert code == ExitCode.RUNTIME, said
    return logged_error(said, secrets)


def logged_error(log: str, secrets: Iterable[str] = ()) -> str:
    """The error in the last line of a log in JSON; whatever else is there, no secret is."""
    assert not any(secret in log for secret in secrets), "a secret in the log"
    *before, last = map(json.loads, log.splitlines())
    assert last["event"] == "service_failed"
    assert not any(line["event"] == "service_failed" for line in before), log
    assert "exception" not in last
    return str(last["error"])


def error_line(stderr: str, secrets: Iterable[str] = ()) -> str:
    """The one line for people among what a command has written; whatever else is there, no secret is."""
    assert "Traceback" not in stderr
    assert not any(secret in stderr for secret in secrets), "a secret in the log"
    (line,) = [line for line in stderr.splitlines() if line.startswith("virnucpro: error:")]
    return line
