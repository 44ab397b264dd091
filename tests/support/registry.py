"""A real schema registry (Apicurio, by its Confluent API) from Maven's files and the machine's Java."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.kafka.kraft import die_with_parent, free_port, missing_tool

APICURIO = "2.6.13.Final"
"""The last line that runs on Java 17; newer ones need 21."""
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{APICURIO}:tar.gz:all"
_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack"
_JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_PREPARE_S, _START_S, _STOP_S, _ANSWER_S = 600.0, 90.0, 20.0, 5.0


class NoRegistry(RuntimeError):
    """There can be no real registry on this machine; the message says why."""


class ApicurioRegistry:
    """A registry that keeps its schemas in memory; `start` and `stop`.

    Start it from the main thread: it dies with the thread that started it.

    Args:
        folder: for its files.

    Raises:
        NoRegistry: this machine cannot run one.
    """

    def __init__(self, folder: Path) -> None:
        self._log = folder / "registry.log"
        self._port = free_port()
        self._jar = _unpacked(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}/apis/ccompat/v7"

    def start(self) -> ApicurioRegistry:
        """Start it, empty, and wait until it answers."""
        options = {"quarkus.http.host": "127.0.0.1", "quarkus.http.port": self._port}
        properties = [f"-D{name}={value}" for name, value in options.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["java", *_JVM, *properties, "-jar", str(self._jar)],
                cwd=self._jar.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the registry did not start:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.1)
        return self

    def stop(self) -> None:
        """Stop it; what was registered is gone."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=_ANSWER_S) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.URLError):
            return False


def _unpacked(folder: Path) -> Path:
    """The registry's jar, with all that it needs beside it; without the network where Maven has it already."""
    if (reason := missing_tool()) is not None:
        raise NoRegistry(reason)
    command = ["mvn", "-B", "-q", _GOAL, f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={folder / 'app'}"]
    for attempt in ([*command, "-o"], command):
        done = subprocess.run(
            attempt, cwd=folder, capture_output=True, text=True, timeout=_PREPARE_S, check=False
        )
        if not done.returncode:
            (jar,) = (folder / "app").rglob("apicurio-registry-app-*-runner.jar")
            return jar
    raise NoRegistry(f"Maven cannot fetch Apicurio {APICURIO}: {(done.stdout + done.stderr)[:500]}")
