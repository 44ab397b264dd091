"""Prints COUNT predictions, from the first one in the topic on, with confluent-kafka and fastavro alone.

python consumer.py localhost:9092 predictions ../../schemas/avsc/prediction.avsc 20
"""

from __future__ import annotations

import json
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer
from fastavro import parse_schema, schemaless_reader
from fastavro.schema import fingerprint, to_parsing_canonical_form

bootstrap, topic, schema_file, count = sys.argv[1:]
text = json.loads(Path(schema_file).read_text(encoding="utf-8"))
# Each version of schemas/history/prediction that may be in the topic belongs in here, under its fingerprint.
writers = {bytes.fromhex(fingerprint(to_parsing_canonical_form(text), "CRC-64-AVRO")): parse_schema(text)}
options = {
    "bootstrap.servers": bootstrap,
    "group.id": "example-python",
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "isolation.level": "read_committed",  # each answer once, whatever was killed
}
consumer = Consumer(options)
consumer.subscribe([topic])
left, deadline = int(count), time.monotonic() + 60
try:
    while left and time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is None or message.error():
            continue
        value = message.value() or b""
        reader = writers.get(value[2:10]) if value[:2] == b"\xc3\x01" else None
        if reader is None:
            sys.exit(
                f"{topic}/{message.partition()}/{message.offset()}: unknown schema {value[:10].hex(' ')}"
            )
        prediction: Any = schemaless_reader(BytesIO(value[10:]), reader, None)
        print(prediction["id"], prediction["verdict"], prediction["virus_score"], sep="\t")
        consumer.commit(message=message, asynchronous=False)
        left -= 1
finally:
    consumer.close()
sys.exit(f"{left} predictions are missing after 60 s" if left else 0)
