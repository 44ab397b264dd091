"""The HTTP server on a real port, in its thread."""

from __future__ import annotations

import socket
import urllib.request

import pytest

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
