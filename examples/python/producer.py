"""Publishes the records of a FASTA file, with confluent-kafka and fastavro alone.

python producer.py localhost:9092 sequences ../../schemas/avsc/sequence_record.avsc reads.fasta [REGISTRY_URL]

With a schema registry it writes Confluent framing with the registered schema, as Confluent's serializers do.
"""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path
from urllib.request import urlopen

from confluent_kafka import KafkaError, Message, Producer
from fastavro import parse_schema, schemaless_writer
from fastavro.schema import fingerprint, to_parsing_canonical_form

bootstrap, topic, schema_file, fasta, *registry = sys.argv[1:]
if registry:
    with urlopen(f"{registry[0]}/subjects/{topic}-value/versions/latest", timeout=10) as answer:
        registered = json.load(answer)
    text = json.loads(registered["schema"])
    HEADER = b"\x00" + registered["id"].to_bytes(4, "big")
else:
    text = json.loads(Path(schema_file).read_text(encoding="utf-8"))
    # Avro single-object encoding: two bytes, the schema's fingerprint, the record.
    HEADER = b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(text), "CRC-64-AVRO"))
schema = parse_schema(text)
failed: list[str] = []


def on_delivery(error: KafkaError | None, message: Message) -> None:
    if error is not None:
        failed.append(f"{(message.key() or b'').decode()}: {error.str()}")


# Idempotent, so that a retry neither repeats nor reorders; Java's choice of a partition for a key.
options = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "partitioner": "murmur2_random"}
producer = Producer(options | {"message.timeout.ms": 60_000, "message.max.bytes": 4_000_000})
for number, record in enumerate(Path(fasta).read_text(encoding="utf-8").split(">")[1:]):
    header, _, lines = record.partition("\n")
    name, _, description = header.partition(" ")
    value = BytesIO(HEADER)
    value.seek(len(HEADER))
    fields = {"id": name, "sequence": "".join(lines.split()), "description": description or None}
    schemaless_writer(value, schema, fields | {"metadata": {}})
    producer.produce(topic, key=name.encode(), value=value.getvalue(), on_delivery=on_delivery)
    if number % 10_000 == 0:
        producer.flush(70)  # the client's queue holds 100,000 messages
waiting = producer.flush(70)
sys.exit("\n".join(failed) or (f"{waiting} records were not acknowledged" if waiting else 0))
