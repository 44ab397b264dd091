"""Traces: which spans there are, what they continue, and what the headers of an answer say of them."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, service_attributes
from opentelemetry.trace import NoOpTracer, SpanKind, StatusCode
from structlog.testing import capture_logs

from consumer.config.settings import ServiceSettings
from consumer.delivery.answers import SOURCE_HEADER, Answer, AnswerBuilder
from consumer.errors import ServiceError
from consumer.ops import tracing
from consumer.ops.events import MessageRead, Rebalanced, ResultStale, TopicRecreated
from consumer.ops.tracing import Tracing, open_tracing
from consumer.scoring.batcher import Batch, RecordJob
from schemas.codecs import AvroCodec
from tests.support.factories import (
    STAMP,
    TOPIC,
    message,
    partition,
    prepared_record,
    refused,
    scored,
    source,
)
from virnucpro_core.scoring.pending import Slot

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = ("traceparent", f"00-{TRACE}-{SPAN}-01".encode())
HEADERS = (("a", b"1"), TRACEPARENT, ("tracestate", b"vendor=x"), ("a", None))


class Bench:
    """Tracing into memory, and a builder of answers that it is handed to."""

    def __init__(self, sampler=None) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.use(Tracing(provider.get_tracer("test"), "group"))

    def use(self, made: Tracing) -> None:
        self.tracing = made
        self._builder = AnswerBuilder("predictions", "letters", "group", STAMP, AvroCodec())
        self._builder.trace = made.headers

    def read(self, offset, headers=HEADERS, **more):
        found = message(offset, headers=headers, **more)
        self.tracing.happened(MessageRead(found))
        return found

    def answer(self, found, outcome):
        answer = Answer(found, outcome)
        out = self._builder.build(answer)
        assert self._builder.build(answer).headers == out.headers, "an answer that is sent again is the same"
        self.tracing.delivered(answer)
        return out

    @property
    def spans(self):
        return self._exporter.get_finished_spans()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def value(headers, name):
    (found,) = [held for given, held in headers if given == name]
    return found.decode()


def test_a_prediction_continues_the_trace_of_its_record(bench):
    out = bench.answer(bench.read(7), scored(10))
    (span,) = bench.spans
    context = span.get_span_context()
    assert (span.name, span.kind) == (f"process {TOPIC}", SpanKind.CONSUMER)
    assert f"{context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == SPAN
    assert value(out.headers, "traceparent") == f"00-{TRACE}-{context.span_id:016x}-01"
    assert value(out.headers, "tracestate") == "vendor=x"
    assert [name for name, _ in out.headers if name in ("a", SOURCE_HEADER)] == ["a", "a", SOURCE_HEADER]
    assert dict(span.attributes) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": TOPIC,
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 7,
        "messaging.consumer.group.name": "group",
        "messaging.message.body.size": 5,
        "virnucpro.outcome": "predicted",
        "virnucpro.verdict": "virus",
    }
    assert span.status.status_code is StatusCode.UNSET


def test_so_does_a_dead_letter_and_its_span_is_an_error(bench):
    out = bench.answer(bench.read(7), refused())
    (span,) = bench.spans
    assert value(out.headers, "traceparent") == f"00-{TRACE}-{span.get_span_context().span_id:016x}-01"
    assert span.attributes["virnucpro.outcome"] == "dead_lettered"
    assert span.attributes["error.type"] == "malformed"
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("headers", [(), (("traceparent", b"\xff"),), (("traceparent", None),)])
def test_a_record_without_a_trace_begins_one(bench, headers):
    out = bench.answer(bench.read(7, headers), scored(10))
    (span,) = bench.spans
    assert span.parent is None
    context = span.get_span_context()
    named = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert value(out.headers, "traceparent") == named


def test_a_batch_is_a_span_with_a_link_to_each_of_its_records(bench):
    first, second = bench.read(1), bench.read(2, ())
    records = [RecordJob(prepared_record(10, 20), found.source, 0.0) for found in (first, second)]
    slots = tuple(Slot(record, index) for record in records for index in range(2))
    bench.tracing.batch_done(Batch(slots, 60, "full"), 0.25)
    bench.answer(first, scored(10))
    bench.answer(second, scored(10))
    batch, *processed = bench.spans
    assert (batch.name, batch.parent) == ("score batch", None)
    assert [link.context for link in batch.links] == [span.get_span_context() for span in processed]
    assert batch.end_time - batch.start_time == 250_000_000
    assert dict(batch.attributes) == {
        "messaging.batch.message_count": 2,
        "virnucpro.batch.frames": 4,
        "virnucpro.batch.tokens": 60,
        "virnucpro.batch.closed_by": "full",
    }


@pytest.mark.parametrize(
    "event",
    [
        ResultStale(source(7, number=1)),
        Rebalanced("revoked", (partition(1),)),
        Rebalanced("lost", (partition(1),)),
        TopicRecreated(TOPIC, 1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_the_span_of_a_record_that_another_answers_ends(bench, event):
    bench.read(7, number=1)
    bench.tracing.happened(event)
    assert bench.tracing.in_flight == 0
    (span,) = bench.spans
    assert span.attributes["virnucpro.outcome"] == "dropped"


def test_other_partitions_keep_theirs(bench):
    bench.read(7)
    for event in (ResultStale(source(8)), Rebalanced("revoked", (partition(1),)), TopicRecreated("other", 0)):
        bench.tracing.happened(event)
    bench.tracing.happened(Rebalanced("assigned", (partition(0),)))
    assert (bench.tracing.in_flight, bench.spans) == (1, ())


def test_spans_that_are_forgotten_are_bounded(bench, monkeypatch):
    monkeypatch.setattr(tracing, "_MOST_OPEN", 3)
    for offset in range(5):
        bench.read(offset)
    assert bench.tracing.in_flight == 3
    assert [span.attributes["messaging.kafka.offset"] for span in bench.spans] == [0, 1]


def test_what_is_not_sampled_is_passed_on_as_such():
    bench = Bench(ALWAYS_OFF)
    out = bench.answer(bench.read(7), scored(10))
    assert bench.spans == ()
    begin, trace, span, flags = value(out.headers, "traceparent").split("-")
    assert (begin, trace, flags) == ("00", TRACE, "00")
    assert span != SPAN


def test_an_sdk_that_is_disabled_leaves_the_headers_as_they_are(bench):
    bench.use(Tracing(NoOpTracer(), "group"))
    out = bench.answer(bench.read(7), scored(10))
    assert value(out.headers, "traceparent").encode() == TRACEPARENT[1]


def test_names_are_those_of_the_conventions():
    ours = {
        tracing.SYSTEM: messaging_attributes.MESSAGING_SYSTEM,
        tracing.OPERATION_NAME: messaging_attributes.MESSAGING_OPERATION_NAME,
        tracing.OPERATION_TYPE: messaging_attributes.MESSAGING_OPERATION_TYPE,
        tracing.DESTINATION: messaging_attributes.MESSAGING_DESTINATION_NAME,
        tracing.PARTITION: messaging_attributes.MESSAGING_DESTINATION_PARTITION_ID,
        tracing.OFFSET: messaging_attributes.MESSAGING_KAFKA_OFFSET,
        tracing.GROUP: messaging_attributes.MESSAGING_CONSUMER_GROUP_NAME,
        tracing.BODY_SIZE: messaging_attributes.MESSAGING_MESSAGE_BODY_SIZE,
        tracing.BATCH_COUNT: messaging_attributes.MESSAGING_BATCH_MESSAGE_COUNT,
        tracing.ERROR_TYPE: error_attributes.ERROR_TYPE,
        tracing.SERVICE_NAME: service_attributes.SERVICE_NAME,
        tracing.SERVICE_VERSION: service_attributes.SERVICE_VERSION,
    }
    assert all(name == theirs for name, theirs in ours.items())


def test_the_variables_of_opentelemetry_say_who_sends(monkeypatch):
    settings = ServiceSettings(tracing=True, instance_id="worker-1")
    assert sent_as(settings)["service.name"] == "virnucpro-stream"
    assert sent_as(settings)["service.instance.id"] == "worker-1"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=test")
    found = sent_as(settings)
    assert (found["service.name"], found["deployment.environment.name"]) == ("other", "test")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "third")
    assert sent_as(settings)["service.name"] == "third"


def sent_as(settings):
    found = tracing._resource(settings)
    assert isinstance(found, Resource)
    return found.attributes


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_another_protocol_is_refused_with_the_cure(monkeypatch, variable):
    monkeypatch.setenv(variable, "grpc")
    with ExitStack() as stack, pytest.raises(ServiceError, match=f"{variable}=grpc.*http/protobuf"):
        open_tracing(ServiceSettings(tracing=True), stack)


def test_the_end_does_not_wait_for_a_receiver_that_is_silent(monkeypatch):
    monkeypatch.setattr(tracing, "_CLOSE_S", 0.05)
    asked, answers = threading.Event(), threading.Event()

    class Silent(InMemorySpanExporter):
        def export(self, spans):
            asked.set()
            answers.wait(60)
            return super().export(spans)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Silent(), schedule_delay_millis=1))
    provider.get_tracer("test").start_span("last").end()
    assert asked.wait(60)
    with capture_logs() as lines:
        tracing._close(provider)
    answers.set()
    assert [line["event"] for line in lines] == ["spans_not_sent"]


OFF = """
import sys
import consumer.runtime
from consumer.config.settings import ServiceSettings
from consumer.runtime import _open_tracing
assert _open_tracing(ServiceSettings(), None) is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")], "loaded while it is off"
sys.modules["opentelemetry"] = None
try:
    _open_tracing(ServiceSettings(tracing=True), None)
except consumer.runtime.ServiceError as error:
    print(error)
"""


def test_nothing_of_it_is_loaded_while_it_is_off_and_its_absence_has_a_cure():
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'virnucpro-stream[otel]'" in done.stdout
