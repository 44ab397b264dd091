"""HTTP connections with bounds: how many are open at once, how long an exchange takes, how large a request is.

uvicorn bounds neither the number of connections (its `limit_concurrency` answers 503 to complete requests and keeps the
rest open) nor the time that a request takes to arrive. Whoever can reach the port could take every file descriptor of
the process, and Kafka's client would get none.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from consumer.throttle import Throttle

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 64
"""More than supervisors, scrapers and people need."""
RESERVED_DESCRIPTORS = 128
"""Of the process's limit, at least so many are left for Kafka's client, files and the rest."""
_MIN_CONNECTIONS = 8
_KEEP_ALIVE_S = 5
_PIECE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the HTTP port takes.

    Attributes:
        connections: open at once; one more closes the one whose exchange began first.
        exchange_s: seconds from the opening of a connection, or from its last response, to the end of the next one.
        head_bytes: of a request's line and headers.
    """

    connections: int
    exchange_s: float = 10.0
    head_bytes: int = 16_384

    @property
    def accepted_at_once(self) -> int:
        """Connections accepted in one go. Few, so that one whose request is there already is answered before it could
        be the oldest, and that the number of descriptors is at most a little above `connections`."""
        return max(1, self.connections // 8)


def default_bounds() -> Bounds:
    """The bounds for this process, with descriptors left for all else."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = MAX_CONNECTIONS if limit == resource.RLIM_INFINITY else limit - RESERVED_DESCRIPTORS
    return Bounds(max(_MIN_CONNECTIONS, min(MAX_CONNECTIONS, free)))


class BoundedServer(uvicorn.Server):
    """uvicorn with `Bounds`; for pages that read no request body.

    Args:
        app: an ASGI application.
        queued: connections that the kernel keeps until they are accepted.
    """

    def __init__(self, app: Any, bounds: Bounds, queued: int) -> None:
        self._queued = queued
        connection = partial(_Connection, Connections(bounds))
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("Any", connection),
                # asyncio accepts as many in one go as the kernel may keep, and when descriptors run out it tries, and
                # logs, as many times.
                backlog=bounds.accepted_at_once,
                h11_max_incomplete_event_size=bounds.head_bytes - _PIECE_BYTES,
                timeout_keep_alive=_KEEP_ALIVE_S,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
            )
        )

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Listen as uvicorn does; the kernel's queue is another number than the accepted at once."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(self._queued)


class Connections:
    """The open connections of one server, on the thread of its event loop."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        # In the order in which their exchanges began.
        self._open: dict[_Connection, None] = {}
        self._throttle = Throttle()

    def begin(self, connection: _Connection) -> None:
        """An exchange begins: the connection is the youngest, and the oldest of too many is closed."""
        self._open.pop(connection, None)
        self._open[connection] = None
        if len(self._open) > self.bounds.connections:
            oldest = next(iter(self._open))
            self.end(oldest)
            oldest.abort()
            if self._throttle.allows("full"):
                log.warning("http_connections_full", limit=self.bounds.connections)

    def end(self, connection: _Connection) -> None:
        """The connection is closed."""
        self._open.pop(connection, None)

    def too_slow(self, connection: _Connection) -> None:
        """An exchange took too long."""
        connection.abort()
        if self._throttle.allows("slow"):
            log.warning("http_exchange_too_slow", limit_s=self.bounds.exchange_s)


class _Connection(H11Protocol):
    """One connection: closed when an exchange takes too long, and when it is the oldest of too many."""

    def __init__(self, among: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._among = among

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._begin_exchange()

    def data_received(self, data: bytes) -> None:
        """In pieces, since h11 bounds only a head that has not come whole."""
        for at in range(0, len(data), _PIECE_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[at : at + _PIECE_BYTES])

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # it is not read
            self.transport.close()
        if not self.transport.is_closing():
            self._deadline.cancel()
            self._begin_exchange()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._among.end(self)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Close at once, whatever is still to be written."""
        self.transport.abort()

    def _begin_exchange(self) -> None:
        # It holds until the transport is gone: one that closes still waits for a client that does not read.
        self._deadline = self.loop.call_later(self._among.bounds.exchange_s, self._among.too_slow, self)
        self._among.begin(self)
