"""Traces by OpenTelemetry: a span for each message, one for each batch with links to those, and the way of both out.

Imported only when VIRNUCPRO_TRACING is on, so that it costs nothing while it is off; the SDK is the extra `otel`. A
message's span goes on with the trace that the message's headers name, and its context replaces that one in the headers
of the answer. The standard variables OTEL_* say where spans are sent, how many, and as what; spans are dropped where
they cannot be sent, and nothing waits for that.

The names of attributes are those of the semantic conventions for messaging, version 1.44 (in development there).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import structlog
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import Getter, Setter
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, set_span_in_context

from consumer.config.settings import ServiceSettings
from consumer.delivery.answers import Answer
from consumer.delivery.delivery_listener import CommitOutcome
from consumer.errors import ServiceError
from consumer.ops.events import Event, MessageRead, Rebalanced, ResultStale, TopicRecreated
from consumer.scoring.batcher import Batch
from consumer.types import Headers, RawMessage, Refused, Source
from virnucpro_core import __version__

log = structlog.get_logger(__name__)

# ---- names: https://opentelemetry.io/docs/specs/semconv/messaging/kafka/ --------------------------------------------
SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
OFFSET = "messaging.kafka.offset"
GROUP = "messaging.consumer.group.name"
BODY_SIZE = "messaging.message.body.size"
BATCH_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
SERVICE_NAME, SERVICE_VERSION, SERVICE_INSTANCE = "service.name", "service.version", "service.instance.id"
# Attributes of this service, which the conventions do not name.
OUTCOME, VERDICT = "virnucpro.outcome", "virnucpro.verdict"
FRAMES, TOKENS, CLOSED_BY = "virnucpro.batch.frames", "virnucpro.batch.tokens", "virnucpro.batch.closed_by"

_HTTP = "http/protobuf"
_MOST_OPEN = 100_000
"""Spans of messages in flight; far above what any setting lets in, should one be forgotten."""
_CLOSE_S = 5.0


class _Read(Getter[Headers]):
    """Reads the propagators' fields from a message's headers."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        found = [value.decode("latin-1") for name, value in carrier if name == key and value is not None]
        return found or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name for name, _ in carrier]


class _Write(Setter[dict[str, str]]):
    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        carrier[key] = value


_READ, _WRITE = _Read(), _Write()


@dataclass(frozen=True, slots=True)
class _Open:
    """The span of a message in flight, and the context that its answer goes on with."""

    span: Span
    context: Context


class Tracing:
    """Makes the spans from what the service reports; a `consumer.ops.listeners.Listener`.

    Args:
        tracer: makes the spans.
        group_id: of the consumer.
    """

    def __init__(self, tracer: Tracer, group_id: str) -> None:
        self._tracer, self._group_id = tracer, group_id
        self._open: dict[Source, _Open] = {}

    @property
    def in_flight(self) -> int:
        """Messages whose spans have not ended."""
        return len(self._open)

    def headers(self, message: RawMessage, headers: Headers) -> Headers:
        """The headers of an answer: those given, with the message's span in place of the trace that they name."""
        if (found := self._open.get(message.source)) is None:
            return headers
        written: dict[str, str] = {}
        propagate.inject(written, found.context, _WRITE)
        replaced = propagate.get_global_textmap().fields
        kept = (header for header in headers if header[0] not in replaced)
        return (*kept, *((name, value.encode("latin-1", "replace")) for name, value in written.items()))

    # ---- the loop's thread --------------------------------------------------------------------------------------

    def happened(self, event: Event) -> None:
        match event:
            case MessageRead(message=message):
                self._begin(message)
            case ResultStale(source=source):
                self._drop([source])
            case Rebalanced(kind="revoked" | "lost", partitions=partitions):
                gone = frozenset(partitions)
                self._drop([source for source in self._open if source.partition in gone])
            case TopicRecreated(topic=topic):
                self._drop([source for source in self._open if source.partition.topic == topic])

    def delivered(self, answer: Answer) -> None:
        found = self._open.pop(answer.message.source, None)
        if found is None:
            return
        span = found.span
        match answer.outcome:
            case Refused(reason=reason):
                span.set_attributes({OUTCOME: "dead_lettered", ERROR_TYPE: reason.value})
                span.set_status(StatusCode.ERROR, reason.value)
            case scored:
                span.set_attributes({OUTCOME: "predicted", VERDICT: scored.result.verdict})
        span.end()

    def committed(self, outcome: CommitOutcome) -> None: ...

    def _begin(self, message: RawMessage) -> None:
        partition, _, offset = message.source
        before = propagate.extract(message.headers, Context(), _READ)
        span = self._tracer.start_span(
            f"process {partition.topic}",
            before,
            SpanKind.CONSUMER,
            {
                SYSTEM: "kafka",
                OPERATION_NAME: "process",
                OPERATION_TYPE: "process",
                DESTINATION: partition.topic,
                PARTITION: str(partition.number),
                OFFSET: offset,
                GROUP: self._group_id,
                BODY_SIZE: len(message.value or b""),
            },
        )
        if not span.get_span_context().is_valid:  # the SDK is disabled
            return
        self._drop([message.source])  # one that is read again
        if len(self._open) >= _MOST_OPEN:
            self._drop([next(iter(self._open))])
        self._open[message.source] = _Open(span, set_span_in_context(span, before))

    def _drop(self, sources: Iterable[Source]) -> None:
        """End the spans of messages that get no answer here: their next owner reads them again."""
        for source in sources:
            if (found := self._open.pop(source, None)) is not None:
                found.span.set_attribute(OUTCOME, "dropped")
                found.span.end()

    # ---- the pipeline's threads ---------------------------------------------------------------------------------

    def batch_done(self, batch: Batch, seconds: float) -> None:
        ended = time.time_ns()
        sources = dict.fromkeys(slot.record.source for slot in batch.slots)
        links = [
            Link(found.span.get_span_context()) for source in sources if (found := self._open.get(source))
        ]
        self._tracer.start_span(
            "score batch",
            Context(),
            SpanKind.INTERNAL,
            {
                BATCH_COUNT: len(sources),
                FRAMES: len(batch.slots),
                TOKENS: batch.tokens,
                CLOSED_BY: batch.closed_by,
            },
            links,
            start_time=ended - round(seconds * 1e9),
        ).end(ended)

    def batch_failed(self, kind: str) -> None: ...

    def computed(self, protein_tokens: int, nucleotide_tokens: int) -> None: ...

    def frames_reused(self, frames: int) -> None: ...

    def record_delayed(self) -> None: ...


def open_tracing(settings: ServiceSettings, stack: ExitStack) -> Tracing:
    """Tracing as the settings and the variables OTEL_* ask for; what is left is sent when `stack` is unwound.

    Raises:
        ServiceError: a variable asks for what there is not.
    """
    _check_protocol(os.environ)
    try:
        provider = TracerProvider(resource=_resource(settings), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except (ValueError, OSError) as error:
        raise ServiceError(f"VIRNUCPRO_TRACING: OpenTelemetry refuses a variable OTEL_*: {error}") from error
    stack.callback(_close, provider)
    return Tracing(provider.get_tracer("virnucpro-stream", __version__), settings.group_id)


def _check_protocol(environment: Mapping[str, str]) -> None:
    for variable in (OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL):
        if protocol := environment.get(variable):
            if protocol != _HTTP:
                raise ServiceError(
                    f"{variable}={protocol}: VIRNUCPRO_TRACING sends spans by {_HTTP} only: set that, and the address "
                    "of the collector's HTTP port"
                )
            return


def _resource(settings: ServiceSettings) -> Resource:
    """Who sends the spans; what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes first."""
    ours = {
        SERVICE_NAME: "virnucpro-stream",
        SERVICE_VERSION: __version__,
        SERVICE_INSTANCE: settings.instance_id,
    }
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})


def _close(provider: TracerProvider) -> None:
    """Send what is left, for some seconds: the SDK alone would wait half a minute for a collector that is silent."""
    closing = threading.Thread(target=provider.shutdown, name="close-tracing", daemon=True)
    closing.start()
    closing.join(_CLOSE_S)
    if closing.is_alive():
        log.warning("spans_not_sent", seconds=_CLOSE_S)
