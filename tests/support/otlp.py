"""A receiver of traces: OTLP over HTTP, its protobuf decoded by OpenTelemetry's own classes."""

from __future__ import annotations

import gzip
from http.server import BaseHTTPRequestHandler

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from tests.support.http_server import LocalHttpServer


class OtlpReceiver(LocalHttpServer):
    """Keeps what it is sent, at `url`; a context manager."""

    def __init__(self) -> None:
        self.received: list[ResourceSpans] = []
        self.headers: list[dict[str, str]] = []
        super().__init__(self._handler())
        self.url = f"http://127.0.0.1:{self.port}"

    def spans(self, name: str) -> list[Span]:
        """The spans of a name, in the order in which they came."""
        scopes = [scope for resource in self.received for scope in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans if span.name == name]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                if self.path == "/v1/traces":
                    receiver.received += ExportTraceServiceRequest.FromString(body).resource_spans
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None: ...

        return Handler
