"""The service as a child process of `virnucpro demo`: started, asked for its metrics, always taken down."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import urllib.request
from types import TracebackType

from prometheus_client.parser import text_string_to_metric_families

from consumer.cli.error_messages import UserError, warn
from consumer.clock import Deadline

START_S = 120.0
STOP_S = 30.0
_LOG_LINES = 12
_POLL_S = 0.2
_HTTP_S = 5.0
_INHERITED = (
    "MODEL",
    "DEVICE",
    "PRECISION",
    "V1_ATTENTION",
    "ATTENTION_BACKEND",
    "TOKEN_BUDGET",
    "FRAME_CACHE",
    "SELF_TEST",
    "KEEP_U",
    "LOG_LEVEL",
)
"""The settings that mean something to the demo; the others, a broker's credentials among them, do not."""


def child_environment(bootstrap: str, v1_attention: bool) -> dict[str, str]:
    """The environment of the service: this process's, with the settings that the demo needs.

    v1_attention: True wins over the variable; False leaves it to that.
    """
    kept = {f"VIRNUCPRO_{name}" for name in _INHERITED}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("VIRNUCPRO_") or name.upper() in kept
    }
    return inherited | {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "VIRNUCPRO_DELIVERY": "at_least_once",
        "VIRNUCPRO_HTTP_HOST": "127.0.0.1",
        "VIRNUCPRO_HTTP_PORT": "0",
        "VIRNUCPRO_LOG_FORMAT": "console",
        **({"VIRNUCPRO_V1_ATTENTION": "true"} if v1_attention else {}),
    }


class ServiceProcess:
    """`virnucpro serve` as a child. Leaving the `with` block stops it: SIGTERM, SIGKILL after `STOP_S`."""

    def __init__(self, bootstrap: str, v1_attention: bool = False) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._lines: queue.Queue[bytes] = queue.Queue()
        # In a separate session, Ctrl-C reaches only the demo, which then stops the service in order.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "consumer.cli.app", "serve"],
            env=child_environment(bootstrap, v1_attention),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        threading.Thread(target=self._read_lines, daemon=True).start()
        self.http = ""

    def __enter__(self) -> ServiceProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def wait_until_ready(self) -> None:
        """Wait for the line with which the service says that it is ready.

        Raises:
            UserError: it ended, or takes longer than `START_S`.
        """
        deadline = Deadline.after(START_S)
        while not deadline.expired:
            try:
                line = self._lines.get(timeout=_POLL_S)
            except queue.Empty:
                self.check()
                continue
            self.http = json.loads(line)["http"]
            return
        raise self._failed(f"is not ready after {START_S:.0f} s")

    def check(self) -> None:
        """Raises UserError, after the last lines of its log, when the service has ended."""
        if (code := self._process.poll()) is not None:
            raise self._failed(f"ended with exit code {code}")

    def totals(self) -> dict[str, float]:
        """The service's metrics by name, each summed over its labels."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
        with opener.open(f"{self.http}/metrics", timeout=_HTTP_S) as answer:
            text = answer.read().decode()
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    def _failed(self, what: str) -> UserError:
        self._log.seek(0)
        for line in self._log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]:
            warn(f"service: {line}")
        return UserError(f"the service {what}; the last lines of its log are above")

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
