"""Prints COUNT predictions, from the first one in the topic on, with confluent-kafka and fastavro alone.

python consumer.py localhost:9092 predictions ../../schemas/avsc/prediction.avsc 20 [REGISTRY_URL]

Confluent framing is read with the registry's schema of the id, all else with the schema of the file.
"""

from __future__ import annotations

import json
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from confluent_kafka import Consumer
from fastavro import parse_schema, schemaless_reader
from fastavro.schema import fingerprint, to_parsing_canonical_form

bootstrap, topic, schema_file, count, *registry = sys.argv[1:]
text = json.loads(Path(schema_file).read_text(encoding="utf-8"))
# Each version of schemas/history/prediction that may be in the topic belongs in here, under its fingerprint.
mark = b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(text), "CRC-64-AVRO"))
writers = {mark: parse_schema(text)}
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
        mark = value[: 5 if value[:1] == b"\x00" else 10]
        if registry and len(mark) == 5 and mark not in writers:
            with urlopen(f"{registry[0]}/schemas/ids/{int.from_bytes(mark[1:])}", timeout=10) as answer:
                writers[mark] = parse_schema(json.loads(json.load(answer)["schema"]))
        if mark not in writers:
            sys.exit(f"{topic}/{message.partition()}/{message.offset()}: unknown schema {mark.hex(' ')}")
        prediction: Any = schemaless_reader(BytesIO(value[len(mark) :]), writers[mark], None)
        print(prediction["id"], prediction["verdict"], prediction["virus_score"], sep="\t")
        consumer.commit(message=message, asynchronous=False)
        left -= 1
finally:
    consumer.close()
sys.exit(f"{left} predictions are missing after 60 s" if left else 0)
