"""What the service and the commands ask of a schema registry; `confluent.py` has the client that asks it."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol
from uuid import UUID

from consumer.errors import ServiceError
from schemas import SchemaId


class RegistryRefusal(ServiceError):
    """The registry does not make a change; the message says why."""


class Registered(NamedTuple):
    """A version of a subject; `guid` is None where the registry has none."""

    version: int
    schema_id: int
    guid: UUID | None
    text: str


class SchemaRegistry(Protocol):
    """Safe from any thread. Each call ends within the timeout of the client.

    Raises from all methods:
        DependencyUnavailable: the registry does not answer, or not as a registry.
    """

    address: str
    """Where it is, for messages; without credentials."""

    def schema(self, schema_id: SchemaId) -> dict[str, Any]:
        """A writer's schema as parsed JSON.

        Raises:
            LookupError: the registry says that it has none of that id.
            UnusableSchema: it is not an Avro schema that stands alone.
        """

    def versions(self, subject: str) -> list[Registered]:
        """All versions of a subject, the oldest first; none if the subject does not exist."""

    def compatibility(self, subject: str) -> str | None:
        """The level that is set for the subject itself; None where the registry's own level holds."""

    def is_compatible(self, subject: str, version: int, text: str) -> bool:
        """Whether the registry finds a schema compatible with a version, by the level of the subject."""

    def register(self, subject: str, text: str) -> None:
        """Add a version to a subject; raises `RegistryRefusal`."""

    def set_compatibility(self, subject: str, level: str) -> None:
        """Set the level of a subject; raises `RegistryRefusal`."""
