"""The service with a real schema registry on a real broker; publishers and readers are Confluent's serializers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict

import pytest
from confluent_kafka.schema_registry import (
    SchemaRegistryClient,
    dual_schema_id_deserializer,
    header_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from consumer.config.settings import load_settings
from consumer.delivery.answers import SCHEMA_ID_HEADER
from consumer.registry.service_codec import open_registry
from consumer.registry.subjects import apply, look_at_all
from schemas import Reason, SequenceRecord, encode_record, schema_json
from schemas.codecs import VALUE_SCHEMA_ID
from tests.support.harness import NoopServe, produce, serving, virnucpro, wait_until
from tests.support.kafka.job import Job
from tests.support.registry import ApicurioRegistry, RegistryProxy

SEQUENCE = "ATGGCTAAAGGTCTGCCATTCGACGGTACCGAATGG" * 5
WITHOUT_REGISTRATION = {"auto.register.schemas": False, "use.latest.version": True}


class Contract:
    """One job's topics with their subjects in the registry, and Confluent's client of both."""

    def __init__(self, job: Job, proxy: RegistryProxy, client: SchemaRegistryClient) -> None:
        self.job, self.proxy, self.client = job, proxy, client
        self.variables = job.worker(0) | {"VIRNUCPRO_SCHEMA_REGISTRY_URL": proxy.url}
        with ExitStack() as stack:
            registry = open_registry(load_settings(self.variables), stack)
            assert registry is not None
            names = {"sequence_record": "in", "prediction": "out", "dead_letter": "dlq"}
            topics = {kind: f"{job.name}.{topic}" for kind, topic in names.items()}
            for state in look_at_all(registry, topics):
                apply(registry, state)

    def serialized(self, record_id: str, **conf) -> dict:
        """A record as Confluent's serializer writes it, for `produce`."""
        serialize = AvroSerializer(self.client, conf=WITHOUT_REGISTRATION | conf)
        headers: list = []
        context = SerializationContext(f"{self.job.name}.in", MessageField.VALUE, headers)
        value = serialize(asdict(SequenceRecord(record_id, SEQUENCE)), context)
        return {"value": value, "headers": headers, "partition": 0}

    def deserialized(self, topic: str) -> list[dict]:
        """All messages of a topic as Confluent's deserializer reads them."""
        deserialize = AvroDeserializer(
            self.client, conf={"schema.id.deserializer": dual_schema_id_deserializer}
        )
        return [
            deserialize(
                message.value(),
                SerializationContext(f"{self.job.name}.{topic}", MessageField.VALUE, message.headers()),
            )
            for message in self.job.read_all(topic)
        ]


@pytest.fixture
def contract(job: Job, registry: ApicurioRegistry) -> Iterator[Contract]:
    with RegistryProxy(registry.url) as proxy, SchemaRegistryClient({"url": proxy.url}) as client:
        yield Contract(job, proxy, client)


HEADER_FORM = {"schema.id.serializer": header_schema_id_serializer}


@pytest.mark.parametrize("framing", ["auto", "confluent_header"])
def test_every_framing_in_and_answers_that_confluents_deserializer_reads(contract, tmp_path, framing):
    job = contract.job
    single = encode_record(SequenceRecord("single", SEQUENCE))
    messages = [
        contract.serialized("framed"),
        contract.serialized("beside", **HEADER_FORM),
        {"value": single, "partition": 0},
        {"value": json.dumps({"id": "json", "sequence": SEQUENCE}).encode(), "partition": 0},
        {"value": b"\x00\x00\x0f\x42\x40" + single[10:], "partition": 0},
        {"value": single[10:], "headers": [(VALUE_SCHEMA_ID, b"\x01" + bytes(16))], "partition": 0},
        {"value": b"junk", "partition": 0},
        contract.serialized("empty") | {"value": b"\x00"},
    ]
    produce(job.bootstrap, messages, f"{job.name}.in")
    variables = contract.variables | {
        "VIRNUCPRO_INPUT_FORMAT": "auto",
        "VIRNUCPRO_OUTPUT_FRAMING": framing,
    }
    with serving(tmp_path / "serve.log", kind=NoopServe, **variables):
        job.finish(len(messages))
    assert [each["id"] for each in contract.deserialized("out")] == ["framed", "beside", "single", "json"]
    letters = contract.deserialized("dlq")
    assert [each["reason"] for each in letters] == [
        Reason.UNKNOWN_SCHEMA,
        Reason.UNKNOWN_SCHEMA,
        Reason.MALFORMED,
        Reason.MALFORMED,
    ]
    assert [each["value"] for each in letters] == [message["value"] for message in messages[4:]]
    without_guid = [name for message in job.read_all("dlq") for name, _ in message.headers()]
    assert without_guid.count(SCHEMA_ID_HEADER) == 1
    assert without_guid.count(VALUE_SCHEMA_ID) == (4 if framing == "confluent_header" else 0)


def test_records_wait_while_the_registry_is_down_and_none_is_dead_lettered(contract, tmp_path):
    job = contract.job
    newer = json.loads(schema_json("sequence_record"))
    newer["fields"].append({"name": "taxon", "type": ["null", "long"], "default": None})
    serialize = AvroSerializer(contract.client, json.dumps(newer))
    context = SerializationContext(f"{job.name}.in", MessageField.VALUE)
    values = [
        serialize(asdict(SequenceRecord(f"r{number}", SEQUENCE)) | {"taxon": number}, context)
        for number in range(20)
    ]
    with serving(tmp_path / "serve.log", kind=NoopServe, **contract.variables) as serve:
        contract.proxy.answer = (503, b"busy")
        produce(job.bootstrap, ({"value": value, "partition": 0} for value in values), f"{job.name}.in")
        wait_until(lambda: serve.metric("vnp_delayed_records") == len(values), "all of them wait")
        assert job.committed() == 0
        assert serve.is_ready(), "an outage of the registry must not restart the service"
        contract.proxy.answer = None
        job.finish(len(values))
    assert [each["id"] for each in contract.deserialized("out")] == [f"r{number}" for number in range(20)]
    assert job.read_all("dlq") == []


def test_publish_and_watch_with_a_registry_and_in_json(contract, tmp_path):
    job = contract.job
    fasta = tmp_path / "two.fasta"
    fasta.write_text(f">a\n{SEQUENCE}\n>b\n{SEQUENCE}\n")
    for number, extra in enumerate(
        ({}, {"VIRNUCPRO_INPUT_FORMAT": "json", "VIRNUCPRO_OUTPUT_FORMAT": "json"}), 1
    ):
        variables = contract.variables | extra
        published = virnucpro("publish", str(fasta), **variables)
        assert published.returncode == 0, published.stderr
        with serving(tmp_path / f"serve{number}.log", kind=NoopServe, **variables):
            job.finish(2 * number)
        watched = virnucpro("watch", "--json", "--count", str(2 * number), **variables)
        assert watched.returncode == 0, watched.stderr
        lines = [json.loads(line) for line in watched.stdout.splitlines()]
        assert sorted(line["id"] for line in lines) == sorted(["a", "b"] * number)
    first = {message.value()[:1] for message in (*job.read_all("in"), *job.read_all("out"))}
    assert first == {b"\x00", b"{"}
    assert job.read_all("dlq") == []
