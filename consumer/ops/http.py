"""The HTTP port: the status page, /status, /metrics, /livez, /readyz, /startupz.

Starlette on uvicorn, on a separate thread: the loop that owns Kafka never waits for a scraper. All pages are read-only,
and read no request body.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import re
import socket
import threading
from collections.abc import Callable, Sequence
from importlib import resources
from types import TracebackType

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from consumer.errors import ServiceError
from consumer.ops.health import (
    Check,
    first_reason,
    live_checks,
    ready_checks,
    report,
    started_checks,
)
from consumer.ops.http_connections import BoundedServer, Bounds, default_bounds
from consumer.ops.metrics import Metrics
from consumer.ops.monitor import Monitor, Snapshot
from consumer.ops.status import status

log = structlog.get_logger(__name__)

_STOP_S = 2.0
_QUEUED = 1024
"""Connections that the kernel keeps until they are accepted. One more would have to try again after a second."""
_PLAIN = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def application(metrics: Metrics, monitor: Monitor) -> Starlette:
    """All pages.

    Each is made on the server's thread, one after the other: pages on several threads would compete with the loop.
    """
    page = resources.files("consumer.ops").joinpath("status_page.html").read_text("utf-8")
    headers = _headers(page)

    async def show_page(_: Request) -> Response:
        return Response(page, media_type="text/html", headers=headers)

    async def show_status(_: Request) -> Response:
        return Response(status(monitor.snapshot()), media_type="application/json", headers=_PLAIN)

    async def show_metrics(request: Request) -> Response:
        text, media_type = metrics.render(request.headers.get("accept", ""))
        return Response(text, media_type=media_type)

    def probe(path: str, checks: Callable[[Snapshot], Sequence[Check]], passed: str) -> Route:
        async def answer(request: Request) -> Response:
            made = checks(monitor.snapshot())
            reason = first_reason(made)
            code = 200 if reason is None else 503
            if "verbose" in request.query_params:
                return JSONResponse(report(made), code, headers=_PLAIN)
            return PlainTextResponse(f"{passed if reason is None else reason}\n", code)

        return Route(path, answer)

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/status", show_status),
            Route("/metrics", show_metrics),
            probe("/livez", live_checks, "alive"),
            probe("/readyz", ready_checks, "ready"),
            probe("/startupz", started_checks, "started"),
        ],
    )


def _headers(page: str) -> dict[str, str]:
    """The page may run its own script and style and ask this server, and nothing else, wherever its text comes from."""
    kinds = {
        kind: " ".join(f"'sha256-{_sha256(text)}'" for text in _inline(page, tag))
        for kind, tag in (("script-src", "script"), ("style-src", "style"))
    }
    policy = {
        "default-src": "'none'",
        **kinds,
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return _PLAIN | {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "no-referrer",
    }


def _inline(page: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class HttpServer:
    """Serves from `start` to the end of the `with` block.

    Args:
        host, port: where to listen; port 0 takes any free one.
        tries: while a port is in use the next one is tried, so many in all.
        bounds: on connections and requests; None is `default_bounds`.

    Raises:
        ServiceError: the address cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Metrics,
        monitor: Monitor,
        tries: int = 1,
        bounds: Bounds | None = None,
    ) -> None:
        self._socket = _listen(host, port, tries)
        self._server = BoundedServer(application(metrics, monitor), bounds or default_bounds(), _QUEUED)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        shown = f"[{shown}]" if ":" in shown else shown
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"

    def __enter__(self) -> HttpServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(_STOP_S)
        self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


def _listen(host: str, port: int, tries: int) -> socket.socket:
    for candidate in range(port, port + tries):
        try:
            listener = _bound(host, candidate)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and candidate + 1 < port + tries:
                continue
            raise _not_listening(host, candidate, error) from error
        if candidate != port:
            log.warning("http_port_in_use", wanted=port, taken=candidate, setting="VIRNUCPRO_HTTP_PORT")
        return listener
    raise AssertionError("at least one port is tried")


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_QUEUED)
    except OSError:
        listener.close()
        raise
    return listener


def _not_listening(host: str, port: int, error: OSError) -> ServiceError:
    busy = error.errno in (errno.EADDRINUSE, errno.EACCES)
    cure = (
        "VIRNUCPRO_HTTP_PORT to a free port, or to 0 for any"
        if busy
        else "VIRNUCPRO_HTTP_HOST to an address of this machine"
    )
    return ServiceError(f"cannot listen on {host} port {port} ({error.strerror}): set {cure}")
