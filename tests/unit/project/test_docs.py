"""The guides say what the code says: rows that could drift are computed here and looked up there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.config.settings import ServiceSettings, load_settings
from schemas import SCHEMA_NAMES, Reason, schema_json
from schemas.contracts import contract

DOCS = Path(__file__).parents[3] / "docs"


def type_name(schema: object) -> str:
    if isinstance(schema, str):
        return schema
    if isinstance(schema, list):
        return " or ".join(type_name(branch) for branch in schema)
    if schema["type"] == "array":
        return f"array of {type_name(schema['items'])}"
    if schema["type"] == "map":
        return f"map of {type_name(schema['values'])}"
    return schema["name"]


def records(schema: object) -> Iterator[dict]:
    """A record schema and those inside it."""
    if isinstance(schema, list):
        for branch in schema:
            yield from records(branch)
    elif isinstance(schema, dict):
        if schema["type"] == "record":
            yield schema
        yield from records(schema.get("items"))
        for member in schema.get("fields", []):
            yield from records(member["type"])


def field_rows(name: str) -> list[str]:
    return [
        f"| `{member['name']}` | {type_name(member['type'])} | {member['doc']} |"
        for record in records(json.loads(schema_json(name)))
        for member in record["fields"]
    ]


def setting_rows() -> list[str]:
    """The beginning of each row: variable, default, what it takes."""
    defaults = load_settings({})
    told = {
        "instance_id": "host name",
        "delivery": "see below",
        "token_budget": "by device",
        "state_dir": "see below",
    }
    rows = []
    for name, field in ServiceSettings.model_fields.items():
        default = told.get(name) or defaults.masked().get(f"VIRNUCPRO_{name.upper()}")
        words = {"True": "on", "False": "off", "None": "unset"}  # by text: 1 is no True
        shown = words.get(str(default), default)
        rows.append(f"| `VIRNUCPRO_{name.upper()}` | {shown} | {field.description} |")
    return [row for row in rows if not row.startswith("| `VIRNUCPRO_KAFKA` ")]


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_every_field_is_in_the_guide_as_its_schema_documents_it(name):
    guide = (DOCS / "schemas.md").read_text()
    assert [row for row in field_rows(name) if row not in guide] == []
    assert contract(name).fingerprint.hex(" ") in guide


def test_every_reason_is_in_the_guide():
    guide = (DOCS / "schemas.md").read_text()
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in guide] == []


def test_every_setting_is_in_the_guide_with_its_default_and_what_it_takes():
    guide = (DOCS / "settings.md").read_text()
    assert [row for row in setting_rows() if row not in guide] == []
