"""The image's health check as a process, against an HTTP server."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """An HTTP server with that answer to everything; gives its port and the pages asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"what it says\n")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def probe(page: str, port: int, host: str = "0.0.0.0") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-IS", str(DEPLOY / "docker" / "probe.py"), page],
        env={"VIRNUCPRO_HTTP_PORT": str(port), "VIRNUCPRO_HTTP_HOST": host},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_the_probe_passes_on_what_the_service_says(status, code):
    with answering(status) as (port, asked):
        assert probe("readyz", port) == (code, "what it says\n")
    assert asked == ["/readyz"]


def test_the_probe_fails_when_nothing_answers():
    with answering(200) as (port, _):
        pass
    code, text = probe("livez", port, "127.0.0.1")
    assert code == 1
    assert text.startswith("no answer: ")
    assert "Traceback" not in text
