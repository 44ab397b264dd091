"""The HTTP server on a real port, in its thread."""

from __future__ import annotations

import resource
import select
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from structlog.testing import capture_logs

from consumer.errors import ServiceError
from consumer.ops.http import HttpServer
from consumer.ops.http_connections import MAX_CONNECTIONS, RESERVED_DESCRIPTORS, Bounds, default_bounds
from consumer.ops.metrics import Metrics
from consumer.ops.monitor import Monitor

HALF = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
WHOLE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT_S = 30.0


def test_a_real_port_serves_and_closes():
    metrics, monitor = Metrics(), Monitor()
    with HttpServer("127.0.0.1", 0, metrics, monitor) as server:
        with urllib.request.urlopen(f"{server.url}/livez", timeout=10) as response:
            assert response.read() == b"alive\n"
        port = int(server.url.rsplit(":", 1)[1])
        with pytest.raises(ServiceError, match=rf"port {port} .*VIRNUCPRO_HTTP_PORT"):
            HttpServer("127.0.0.1", port, metrics, monitor)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))


def test_while_a_port_is_in_use_the_next_is_tried_and_no_more_than_asked():
    metrics, monitor = Metrics(), Monitor()
    with HttpServer("127.0.0.1", 0, metrics, monitor) as first:
        port = int(first.url.rsplit(":", 1)[1])
        with capture_logs() as lines, HttpServer("127.0.0.1", port, metrics, monitor, 50) as second:
            taken = int(second.url.rsplit(":", 1)[1])
            assert port < taken < port + 50
            with urllib.request.urlopen(f"{second.url}/livez", timeout=10) as response:
                assert response.read() == b"alive\n"
            with pytest.raises(ServiceError, match=rf"port {taken} .*VIRNUCPRO_HTTP_PORT"):
                HttpServer("127.0.0.1", port, metrics, monitor, taken - port + 1)
    assert [(line["event"], line["wanted"], line["taken"]) for line in lines] == [
        ("http_port_in_use", port, taken)
    ]


class Port:
    """A server, and plain connections to it."""

    def __init__(self, server: HttpServer, stack: ExitStack) -> None:
        self.url, self._stack = server.url, stack
        self._address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = self._stack.enter_context(socket.create_connection(self._address, WAIT_S))
        connection.sendall(sent)
        return connection

    def is_alive(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/livez", timeout=WAIT_S) as response:
            return bool(response.read() == b"alive\n")


@contextmanager
def port(bounds: Bounds) -> Iterator[Port]:
    with ExitStack() as stack, HttpServer("127.0.0.1", 0, Metrics(), Monitor(), bounds=bounds) as server:
        yield Port(server, stack)


def is_open(connection: socket.socket) -> bool:
    """Whether the server has left it open; what it sent is passed over."""
    while select.select([connection], [], [], 0)[0]:
        try:
            if not connection.recv(65_536):
                return False
        except ConnectionError:
            return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def status(connection: socket.socket) -> bytes:
    return connection.recv(400).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "sent", [b"", b"G", HALF, WHOLE], ids=["nothing", "a letter", "half a head", "a request"]
)
def test_of_too_many_connections_the_oldest_are_closed_and_the_probe_is_answered(sent):
    with capture_logs() as lines, port(Bounds(16, exchange_s=600)) as http:
        held = [http.connect(sent) for _ in range(100)]
        assert http.is_alive()
        wait_until(lambda: sum(map(is_open, held)) <= 16)
        assert not any(is_open(connection) for connection in held[:80]), "the oldest go first"
        assert http.is_alive()
    assert [(line["event"], line["limit"]) for line in lines] == [("http_connections_full", 16)]


def test_connections_that_come_at_once_wait_to_be_accepted():
    """The kernel drops one that finds its queue full, and the client tries again after a second."""
    server = HttpServer("127.0.0.1", 0, Metrics(), Monitor())
    address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    with ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection(address, 0.5))
        with server, urllib.request.urlopen(f"{server.url}/livez", timeout=10) as response:
            assert response.read() == b"alive\n"


def test_an_exchange_that_takes_too_long_ends_the_connection_wherever_it_stands():
    with capture_logs() as lines, port(Bounds(16, exchange_s=0.3)) as http:
        many = (HALF + b"\r\n") * 5_000
        endless = http.connect(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n")
        held = [http.connect(sent) for sent in (b"", HALF, HALF + b"X: 1", WHOLE + HALF)]
        unread = http.connect()
        unread.setblocking(False)
        for _ in range(200):  # answers that are not read, until the server takes no more
            try:
                unread.send(many)
            except (BlockingIOError, ConnectionError):
                break
        wait_until(lambda: not any(map(is_open, (*held, endless))))
        wait_until(lambda: closed_by_peer(unread))
        assert http.is_alive()
    assert {line["event"] for line in lines} <= {"http_exchange_too_slow"}
    assert len(lines) <= 1


def closed_by_peer(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


def test_bytes_that_trickle_in_do_not_put_the_end_off():
    with port(Bounds(16, exchange_s=0.3)) as http:
        trickling = http.connect(HALF)

        def trickle() -> bool:
            try:
                trickling.send(b"X-A: 1\r\n")
            except ConnectionError:
                return True
            return not is_open(trickling)

        wait_until(trickle)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(10_000)) + b"\r\n",
    ],
    ids=["path", "header", "headers"],
)
def test_a_head_that_is_too_large_is_refused_also_when_it_comes_whole(head):
    with port(Bounds(16)) as http:
        assert status(http.connect(head)).startswith(b"HTTP/1.1 4")
        assert http.is_alive()


def test_a_connection_is_kept_for_further_requests():
    with port(Bounds(16)) as http:
        connection = http.connect()
        for requests in (1, 1, 3):
            connection.sendall(WHOLE * requests)
            received = b""
            while received.count(b"alive") < requests:
                received += connection.recv(65_536)
            assert received.count(b"HTTP/1.1 200 OK") == requests


def test_a_body_is_not_read():
    with port(Bounds(16, exchange_s=600)) as http:
        connection = http.connect(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n")
        assert b" 405 " in status(connection)
        wait_until(lambda: not is_open(connection))


@pytest.mark.parametrize(
    ("limit", "connections"),
    [
        (1_000_000, MAX_CONNECTIONS),
        (RESERVED_DESCRIPTORS + 40, 40),
        (64, 8),
        (resource.RLIM_INFINITY, MAX_CONNECTIONS),
    ],
)
def test_descriptors_are_left_for_kafka(monkeypatch, limit, connections):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert default_bounds().connections == connections
