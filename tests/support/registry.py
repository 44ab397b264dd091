"""A real schema registry (Apicurio, by its Confluent API) from Maven's files and the machine's Java."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.support.http_server import LocalHttpServer
from tests.support.kafka.kraft import die_with_parent, free_port, missing_tool

APICURIO = "2.6.13.Final"
"""The last line that runs on Java 17; newer ones need 21."""
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{APICURIO}:tar.gz:all"
_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack"
_JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_PREPARE_S, _START_S, _STOP_S, _ANSWER_S = 600.0, 180, 20.0, 5.0


_NAMESPACE = uuid.UUID("2b0c9a7e-1111-2222-3333-0123456789ab")


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
        options = {
            "quarkus.http.host": "127.0.0.1",
            "quarkus.http.port": self._port,
            # The default of 5 s is not enough on a busy machine.
            "quarkus.datasource.jdbc.acquisition-timeout": _START_S,
        }
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


class RegistryProxy(LocalHttpServer):
    """A server in front of a registry that adds what the registry itself has not, and can fail.

    It gives each schema a GUID, in the answers and at `/schemas/guids/{guid}`, as Confluent's registry does from
    version 8 on; it asks for credentials, and serves TLS. As a context manager it serves until the end of the block.

    Args:
        upstream: the address of a registry.
        certificate, key: PEM files; with them it serves HTTPS.
    """

    def __init__(self, upstream: str, certificate: Path | None = None, key: Path | None = None) -> None:
        self.upstream = upstream
        self.authorization: str | None = None
        """What a request must have in its header `Authorization`; None asks for nothing."""
        self.answer: tuple[int, bytes] | None = None
        """Given to every request in place of the registry's answer."""
        self.hang_s = 0.0
        """How long each answer takes."""
        self.requests: list[str] = []
        super().__init__(self._handler())
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    @staticmethod
    def guid(schema_id: int) -> uuid.UUID:
        """The GUID of the schema with that id."""
        return uuid.uuid5(_NAMESPACE, str(schema_id))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.requests.append(f"{self.command} {self.path}")
                time.sleep(proxy.hang_s)
                status, answer = proxy._answer(
                    self.command, self.path, body, self.headers.get("Authorization")
                )
                with suppress(ConnectionError):  # the client did not wait
                    self.send_response(status)
                    self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_DELETE = _serve

            def log_message(self, *_: object) -> None: ...

        return Handler

    def _answer(self, method: str, path: str, body: bytes, authorization: str | None) -> tuple[int, bytes]:
        if self.answer is not None:
            return self.answer
        if self.authorization is not None and authorization != self.authorization:
            return 401, b'{"error_code": 40101, "message": "Unauthorized"}'
        if path.startswith("/schemas/guids/"):
            return self._by_guid(path.removeprefix("/schemas/guids/").partition("?")[0])
        status, answer = self._forward(method, path, body)
        return status, json.dumps(self._with_guid(json.loads(answer), path)).encode()

    def _by_guid(self, guid: str) -> tuple[int, bytes]:
        for schema_id in range(1, 1000):
            if str(self.guid(schema_id)) == guid:
                return self._forward("GET", f"/schemas/ids/{schema_id}", b"")
        return 404, b'{"error_code": 40403, "message": "Schema not found"}'

    def _with_guid(self, answer: Any, path: str) -> Any:
        if not isinstance(answer, dict):
            return answer
        schema_id = answer.get("id")
        if schema_id is None and path.startswith("/schemas/ids/") and "schema" in answer:
            schema_id = path.removeprefix("/schemas/ids/").partition("?")[0]
        return answer if schema_id is None else answer | {"guid": str(self.guid(int(schema_id)))}

    def _forward(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        request = urllib.request.Request(self.upstream + path, body or None, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
