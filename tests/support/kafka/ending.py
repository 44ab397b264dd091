"""A service that ends by itself, as it must: what it says at the end, and with which exit code."""

from __future__ import annotations

from collections.abc import Iterable

from consumer.errors import ExitCode
from tests.support.harness import WAIT_S, Serve


def last_words(serve: Serve, secrets: Iterable[str] = ()) -> str:
    """Wait for the end of a service that something outside refuses; returns its one line for people."""
    try:
        code = serve.process.wait(WAIT_S)
    finally:
        serve.close()
    said = serve.log.read_text()
    assert code == ExitCode.RUNTIME, said
    return error_line(said, secrets)


def error_line(stderr: str, secrets: Iterable[str] = ()) -> str:
    """The one line for people among what a program has written; whatever else is there, no secret is."""
    assert "Traceback" not in stderr
    assert not any(secret in stderr for secret in secrets), "a secret in the log"
    (line,) = [line for line in stderr.splitlines() if line.startswith("virnucpro: error:")]
    return line
