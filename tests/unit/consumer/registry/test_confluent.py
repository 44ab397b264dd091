"""What each answer of a registry means: a schema, none of that id, or an outage. A local server gives the answers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from consumer.config.settings import load_settings
from consumer.registry import confluent
from consumer.registry.confluent import ConfluentRegistry
from consumer.registry.schema_registry import RegistryRefusal
from consumer.registry.service_codec import open_registry
from schemas import schema_json
from schemas.codecs import DependencyUnavailable
from schemas.contracts import UnusableSchema
from tests.support.registry import RegistryProxy

SCHEMA = schema_json("sequence_record")
NOT_A_REGISTRY = [
    (404, b"<html>no such page</html>"),
    (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
    (401, b'{"error_code": 40101, "message": "Unauthorized"}'),
    (403, b""),
    (500, b'{"error_code": 50001, "message": "store"}'),
    (503, b"busy"),
    (200, b"<html>a login page</html>"),
    (200, b'"text"'),
    (200, b"{}"),
    (200, b""),
]


@pytest.fixture
def server() -> Iterator[RegistryProxy]:
    with RegistryProxy("http://127.0.0.1:9") as running:
        yield running


@pytest.fixture
def registry(server) -> Iterator[ConfluentRegistry]:
    with ExitStack() as stack:
        yield open_registry(load_settings({"VIRNUCPRO_SCHEMA_REGISTRY_URL": server.url}), stack)


def answer(status: int, **content) -> tuple[int, bytes]:
    return status, json.dumps(content).encode()


@pytest.mark.parametrize("schema_id", [7, uuid.UUID(int=7)], ids=str)
def test_only_the_registrys_own_code_says_that_there_is_no_such_schema(server, registry, schema_id):
    server.answer = answer(404, error_code=40403, message="Schema not found")
    with pytest.raises(LookupError):
        registry.schema(schema_id)
    for server.answer in NOT_A_REGISTRY:
        with pytest.raises(DependencyUnavailable) as said:
            registry.schema(schema_id)
        assert "\n" not in str(said.value)


@pytest.mark.parametrize("given", NOT_A_REGISTRY, ids=str)
def test_other_questions_have_no_answer_then(server, registry, given):
    server.answer = given
    for ask in (
        lambda: registry.versions("x-value"),
        lambda: registry.compatibility("x-value"),
        lambda: registry.is_compatible("x-value", 1, SCHEMA),
    ):
        with pytest.raises(DependencyUnavailable):
            ask()


@pytest.mark.parametrize("status", [401, 403, 409, 422])
def test_a_change_that_is_refused_says_why(server, registry, status):
    server.answer = answer(status, error_code=status * 100, message="because\nof this")
    for change in (
        lambda: registry.register("x-value", SCHEMA),
        lambda: registry.set_compatibility("x-value", "FULL"),
    ):
        with pytest.raises(RegistryRefusal, match=f"refuses it: HTTP {status}, because of this"):
            change()


def test_an_answer_that_does_not_come_ends_after_the_timeout(server):
    server.hang_s, server.answer = 0.4, (200, b"{}")
    variables = {"VIRNUCPRO_SCHEMA_REGISTRY_URL": server.url, "VIRNUCPRO_SCHEMA_REGISTRY_TIMEOUT": "0.1"}
    with ExitStack() as stack, pytest.raises(DependencyUnavailable, match="Timeout"):
        open_registry(load_settings(variables), stack).schema(1)


def test_a_registry_that_is_not_there_is_an_outage():
    with ExitStack() as stack:
        gone = open_registry(
            load_settings({"VIRNUCPRO_SCHEMA_REGISTRY_URL": "http://u:hush@127.0.0.1:9"}), stack
        )
        with pytest.raises(DependencyUnavailable) as said:
            gone.schema(1)
    assert "127.0.0.1:9 does not answer" in str(said.value)
    assert "hush" not in str(said.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"schema": "{}", "schemaType": "JSON"}, "of the type JSON"),
        (
            {"schema": SCHEMA, "references": [{"name": "a", "subject": "b", "version": 1}]},
            "refers to other schemas",
        ),
        ({"schema": "not JSON"}, "not JSON"),
    ],
)
def test_a_schema_that_is_not_avro_by_itself_is_unusable(server, registry, content, says):
    server.answer = answer(200, **content)
    with pytest.raises(UnusableSchema, match=says):
        registry.schema(1)


def test_how_many_schemas_the_client_keeps_is_bounded(server, registry, monkeypatch):
    monkeypatch.setattr(confluent, "_LOOK_UPS_CACHED", 5)
    server.answer = answer(200, schema=SCHEMA)
    for schema_id in range(12):
        registry.schema(schema_id)
    assert len(registry._client._cache.schema_id_index[None]) < 5
