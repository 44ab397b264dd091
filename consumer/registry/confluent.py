"""Confluent's client of schema registries, as the one that asks; needs the extra `registry`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from consumer.config.registry_options import close_registry_client
from consumer.registry.schema_registry import Registered, RegistryRefusal
from schemas import SchemaId
from schemas.codecs import DependencyUnavailable
from schemas.contracts import UnusableSchema

T = TypeVar("T")

_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA = 40401, 40402, 40403
_NO_SUBJECT_LEVEL = 40408
_NOT_FOUND = frozenset((_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA, _NO_SUBJECT_LEVEL))
"""The registry's own codes. A 404 without one of them comes from something else, such as a proxy or a wrong path."""
_REFUSED = frozenset((401, 403, 405, 409, 422))
"""HTTP codes of a change that the registry does not make."""
_LOOK_UPS_CACHED = 1000


class ConfluentRegistry:
    """A registry with Confluent's API: Confluent's own, Apicurio's, Karapace."""

    def __init__(self, client: SchemaRegistryClient, address: str) -> None:
        self._client, self.address = client, address
        self._look_ups = 0

    def schema(self, schema_id: SchemaId) -> dict[str, Any]:
        # The client keeps every schema that it ever saw; ids come from whoever writes to the topic.
        self._look_ups += 1
        if self._look_ups % _LOOK_UPS_CACHED == 0:
            self._client.clear_caches()
        found: Schema = self._ask(
            lambda: (
                self._client.get_schema_by_guid(str(schema_id))
                if isinstance(schema_id, UUID)
                else self._client.get_schema(schema_id)
            )
        )
        if not found.schema_str:
            self._client.clear_caches()
            raise self._unavailable(ValueError("an answer without a schema"))
        if found.schema_type not in (None, "AVRO"):
            raise UnusableSchema(f"it is of the type {found.schema_type}, not Avro")
        if found.references:
            raise UnusableSchema("it refers to other schemas")
        try:
            parsed: dict[str, Any] = json.loads(found.schema_str)
        except ValueError as error:
            raise UnusableSchema(f"it is not JSON ({error})") from error
        return parsed

    def versions(self, subject: str) -> list[Registered]:
        try:
            return self._ask(lambda: [self._version(subject, number) for number in self._numbers(subject)])
        except LookupError:
            return []

    def compatibility(self, subject: str) -> str | None:
        try:
            return str(self._ask(lambda: self._client.get_compatibility(subject)))
        except LookupError:
            return None

    def is_compatible(self, subject: str, version: int, text: str) -> bool:
        return bool(self._ask(lambda: self._client.test_compatibility(subject, _avro(text), version)))

    def register(self, subject: str, text: str) -> None:
        self._change(lambda: self._client.register_schema(subject, _avro(text)))

    def set_compatibility(self, subject: str, level: str) -> None:
        self._change(lambda: self._client.set_compatibility(subject, level))

    def close(self) -> None:
        """Close the connections."""
        close_registry_client(self._client)

    def _numbers(self, subject: str) -> list[int]:
        numbers = self._client.get_versions(subject)
        if not isinstance(numbers, list):
            raise TypeError("an answer that is not a list of versions")
        return sorted(map(int, numbers))

    def _version(self, subject: str, number: int) -> Registered:
        found = self._client.get_version(subject, number)
        if found.schema_id is None:
            raise ValueError(f"version {number} of {subject} has no id")
        # Registries before Confluent's 8, and the clients of that time, know no GUIDs.
        guid = getattr(found, "guid", None)
        return Registered(number, found.schema_id, UUID(guid) if guid else None, str(found.schema.schema_str))

    def _change(self, call: Callable[[], object]) -> None:
        try:
            call()
        except SchemaRegistryError as error:
            if error.http_status_code in _REFUSED:
                raise RegistryRefusal(
                    f"the schema registry at {self.address} refuses it: {_said(error)}"
                ) from error
            raise self._unavailable(error) from error
        except Exception as error:
            raise self._unavailable(error) from error

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except SchemaRegistryError as error:
            if error.error_code in _NOT_FOUND:
                raise LookupError(_said(error)) from error
            raise self._unavailable(error) from error
        except Exception as error:  # of the HTTP library, of TLS, or from an answer that is not a registry's
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> DependencyUnavailable:
        what = _said(error) if isinstance(error, SchemaRegistryError) else f"{type(error).__name__}: {error}"
        return DependencyUnavailable(f"the schema registry at {self.address} does not answer ({what})")


def _said(error: SchemaRegistryError) -> str:
    text = " ".join(str(error.error_message).split())
    return f"HTTP {error.http_status_code}, {text[:200]}"


def _avro(text: str) -> Schema:
    return Schema(text, "AVRO")
