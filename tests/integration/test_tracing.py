"""The spans of a running service, as a receiver of OTLP gets them, and the trace in the headers of its answers."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from consumer.errors import ExitCode
from schemas import SequenceRecord, encode_record
from tests.support.harness import NoopServe, read, serving, virnucpro
from tests.support.otlp import OtlpReceiver

TRACES = [f"{number:032x}" for number in (0xA1, 0xB2, 0xC3)]
PARENT = "00f067aa0ba902b7"
SECRET = "hush-of-the-collector"


@pytest.fixture
def receiver():
    with OtlpReceiver() as running:
        yield running


def attributes(found):
    return {each.key: each.value.string_value or each.value.int_value for each in found.attributes}


def test_a_trace_goes_on_through_the_service(receiver, tmp_path):
    variables = {
        "VIRNUCPRO_TRACING": "on",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={SECRET}",
        "OTEL_SERVICE_NAME": "of-the-test",
    }
    log = tmp_path / "serve.log"
    with serving(log, kind=NoopServe, **variables, VIRNUCPRO_LOG_LEVEL="debug") as serve:
        producer = Producer({"bootstrap.servers": serve.bootstrap})
        good = [encode_record(SequenceRecord(name, "ACGTACGTACGTACGTAAATTTGGGCCC")) for name in "ab"]
        for trace, body in zip(TRACES, [*good, b"junk"], strict=True):
            headers = [("traceparent", f"00-{trace}-{PARENT}-01"), ("tracestate", "vendor=x")]
            producer.produce("sequences", body, headers=headers)
        assert producer.flush(10) == 0
        answers = read(serve.bootstrap, "predictions", lambda found: len(found) == 2)
        answers += read(serve.bootstrap, "sequences.dlq", lambda found: len(found) == 1)
        pages = "".join(serve.get(page)[1] for page in ("/status", "/metrics"))
        assert serve.stop() == 0
    records = {span.trace_id.hex(): span for span in receiver.spans("process sequences")}
    assert sorted(records) == TRACES
    assert {span.parent_span_id.hex() for span in records.values()} == {PARENT}
    headers = [dict(message.headers()) for message in answers]
    assert sorted(each["traceparent"].decode() for each in headers) == sorted(
        f"00-{trace}-{span.span_id.hex()}-01" for trace, span in records.items()
    )
    assert {each["tracestate"] for each in headers} == {b"vendor=x"}
    assert [attributes(records[trace])["virnucpro.outcome"] for trace in TRACES] == [
        *("predicted", "predicted", "dead_lettered")
    ]
    linked = {link.span_id for span in receiver.spans("score batch") for link in span.links}
    assert linked == {records[trace].span_id for trace in TRACES[:2]}
    assert {attributes(sent.resource)["service.name"] for sent in receiver.received} == {"of-the-test"}
    assert {sent["authorization"] for sent in receiver.headers} == {SECRET}
    assert SECRET not in pages + log.read_text()


def test_without_a_receiver_the_service_answers_all_the_same(tmp_path):
    variables = {"VIRNUCPRO_TRACING": "on", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    with serving(tmp_path / "serve.log", kind=NoopServe, **variables) as serve:
        producer = Producer({"bootstrap.servers": serve.bootstrap})
        producer.produce("sequences", encode_record(SequenceRecord("a", "ACGTACGTACGTACGTAAATTT")))
        assert producer.flush(10) == 0
        (answer,) = read(serve.bootstrap, "predictions", lambda found: len(found) == 1)
        assert serve.stop() == 0
    assert "traceparent" in dict(answer.headers())


def test_another_protocol_is_one_line_with_the_cure():
    done = virnucpro("serve", VIRNUCPRO_TRACING="on", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert done.returncode == ExitCode.RUNTIME
    assert (
        "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: VIRNUCPRO_TRACING sends spans by http/protobuf only"
        in done.stderr.decode()
    )
