"""The HTTP server on a real port, in its thread."""

from __future__ import annotations

import socket
import urllib.request

import pytest
from structlog.testing import capture_logs

from consumer.errors import ServiceError
from consumer.ops.http import HttpServer
from consumer.ops.metrics import Metrics
from consumer.ops.monitor import Monitor


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
