"""The HTTP port: /metrics, /livez, /readyz.

Starlette on uvicorn, on a separate thread: the loop that owns Kafka never waits for a scraper.
"""

from __future__ import annotations

import errno
import socket
import threading
from types import TracebackType

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from consumer.errors import ServiceError
from consumer.ops.health import not_ready, stuck_for
from consumer.ops.http_connections import BoundedServer, Bounds, default_bounds
from consumer.ops.metrics import Metrics
from consumer.ops.monitor import Monitor

log = structlog.get_logger(__name__)

_STOP_S = 2.0
_QUEUED = 128


def application(metrics: Metrics, monitor: Monitor) -> Starlette:
    """The three pages.

    Each is made on the server's thread, one after the other: pages on several threads would compete with the loop.
    """

    async def show_metrics(request: Request) -> Response:
        text, media_type = metrics.render(request.headers.get("accept", ""))
        return Response(text, media_type=media_type)

    async def live(_: Request) -> Response:
        stuck = stuck_for(monitor.snapshot())
        if stuck is None:
            return PlainTextResponse("alive\n")
        return PlainTextResponse(f"the main loop has not turned for {stuck:.0f} s\n", 503)

    async def ready(_: Request) -> Response:
        reason = not_ready(monitor.snapshot())
        return PlainTextResponse("ready\n") if reason is None else PlainTextResponse(f"{reason}\n", 503)

    return Starlette(
        routes=[Route("/metrics", show_metrics), Route("/livez", live), Route("/readyz", ready)],
    )


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
