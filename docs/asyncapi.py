"""Writes docs/asyncapi.yaml, the AsyncAPI 3 document of the service, from its schemas and settings.

python docs/asyncapi.py            write it (`make docs`)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "asyncapi.yaml"
_AVRO = "application/vnd.apache.avro+json;version=1.9.0"
_BINDING = "0.5.0"
_HEAD = "# Written by docs/asyncapi.py from schemas/avsc and the settings: run `make docs` after a change of these.\n"


def document() -> dict[str, Any]:
    """The document as plain values."""
    from consumer.config.settings import ServiceSettings
    from consumer.delivery.answers import REASON_HEADER, REPLAYS_HEADER, SCHEMA_ID_HEADER, SOURCE_HEADER
    from schemas import Reason, SchemaName, schema_json
    from virnucpro_client.parts import PART_HEADER, Part
    from virnucpro_core import __version__

    part = {
        PART_HEADER: {
            "type": "string",
            "description": 'Which part of which record: see "A sequence over the size of a message" in '
            "docs/contract.md. Not there on whole records.",
            "examples": [Part("0123456789abcdef" * 2, 2, 3, 1_000_000, 2_500_000, 500).header.decode()],
        }
    }
    source = part | {
        SOURCE_HEADER: {
            "type": "string",
            "description": "topic/partition/offset of the record that is answered.",
            "examples": ["sequences/3/41"],
        }
    }
    dead = source | {
        REASON_HEADER: {
            "type": "string",
            "description": "The field `reason`, for routing without decoding.",
            "enum": [reason.value for reason in Reason if reason is not Reason.UNKNOWN],
        },
        REPLAYS_HEADER: {
            "type": "string",
            "pattern": "^[0-9]+$",
            "description": "How often the record was replayed; not there if it never was.",
        },
        SCHEMA_ID_HEADER: {
            "type": "string",
            "format": "binary",
            "description": "The header __value_schema_id of the record, where it had one.",
        },
    }
    answers: dict[SchemaName, dict[str, Any]] = {
        "sequence_record": {"headers": {"type": "object", "properties": part}},
        "prediction": {"headers": {"type": "object", "required": [SOURCE_HEADER], "properties": source}},
        "dead_letter": {
            "headers": {"type": "object", "required": [SOURCE_HEADER, REASON_HEADER], "properties": dead}
        },
    }
    channels: dict[SchemaName, str] = {
        "sequence_record": "input_topic",
        "prediction": "output_topic",
        "dead_letter": "dlq_topic",
    }
    actions: dict[SchemaName, tuple[str, str]] = {
        "sequence_record": ("scoreSequence", "receive"),
        "prediction": ("answerWithPrediction", "send"),
        "dead_letter": ("refuseRecord", "send"),
    }
    messages, operations, addresses = {}, {}, {}
    for name, setting in channels.items():
        schema = json.loads(schema_json(name))
        title, topic = schema["name"], ServiceSettings.model_fields[setting].default
        messages[title] = {
            "name": title,
            "title": title,
            "summary": schema["doc"],
            "contentType": "avro/binary",
            **answers[name],
            "payload": {"schemaFormat": _AVRO, "schema": schema},
            "bindings": {
                "kafka": {
                    "key": {"type": "string", "description": _KEYS[name]},
                    "bindingVersion": _BINDING,
                }
            },
        }
        addresses[setting] = {
            "address": topic,
            "description": f"The name is that of VIRNUCPRO_{setting.upper()}; this is its default.",
            "messages": {title: {"$ref": f"#/components/messages/{title}"}},
            "bindings": {"kafka": {"topic": topic, "bindingVersion": _BINDING}},
        }
        operation, action = actions[name]
        operations[operation] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{setting}"},
            "summary": _OPERATIONS[name],
            "messages": [{"$ref": f"#/channels/{setting}/messages/{title}"}],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "virnucpro-stream",
            "version": __version__,
            "description": "Nucleotide sequences in, viral sequence predictions out. The value of a message is in Avro "
            "single-object encoding, in one of Confluent's framings, or in JSON: docs/contract.md.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "avro/binary",
        "servers": {
            "broker": {
                "host": "localhost:9092",
                "protocol": "kafka",
                "description": "Yours: VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS.",
            }
        },
        "channels": addresses,
        "operations": operations,
        "components": {"messages": messages},
    }


_KEYS = {
    "sequence_record": "Free, and may be null; `virnucpro publish` takes the record's id.",
    "prediction": "The record's, byte for byte.",
    "dead_letter": "The record's, byte for byte.",
}
_OPERATIONS = {
    "sequence_record": "The service reads each record once and answers it with one prediction or one dead letter.",
    "prediction": "The answer to a record that could be scored.",
    "dead_letter": "The answer to a record that could not be scored, with its raw bytes and the reason.",
}


def text() -> str:
    """The file's content."""
    dumped: str = yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=110)
    return _HEAD + dumped


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    DOCUMENT.write_text(text(), encoding="utf-8")
