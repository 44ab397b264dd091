"""docs/asyncapi.yaml is what `make docs` writes, and consistent in itself.

tests/tools/test_asyncapi_schema.py validates it by the specification's own schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from docs import asyncapi
from schemas import SCHEMA_NAMES, Reason, schema_json

WRITTEN: dict[str, Any] = yaml.safe_load(asyncapi.DOCUMENT.read_text(encoding="utf-8"))


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (str(each) for name, each in value.items() if name == "$ref")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from references(each)


def test_the_document_is_up_to_date():
    assert asyncapi.DOCUMENT.read_text(encoding="utf-8") == asyncapi.text(), "run `make docs`"


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_every_message_has_the_current_schema(name):
    schema = json.loads(schema_json(name))
    assert WRITTEN["components"]["messages"][schema["name"]]["payload"]["schema"] == schema


def test_every_reference_leads_to_something():
    found = set(references(WRITTEN))
    assert len(found) == 9
    for reference in found:
        place = WRITTEN
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_the_header_of_a_dead_letter_takes_every_reason_that_is_written():
    headers = WRITTEN["components"]["messages"]["DeadLetter"]["headers"]["properties"]
    assert set(headers["vnp-dlq-reason"]["enum"]) == set(Reason) - {Reason.UNKNOWN}
