"""Our schemas under the subjects of their topics: what a registry has of them, and what would have to change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from consumer.registry.schema_registry import Registered, SchemaRegistry
from schemas import SCHEMA_NAMES, SchemaName
from schemas.compatibility import COMPATIBILITY
from schemas.contracts import UnusableSchema, parse_writer, releases, schema_fingerprint

Topics = Mapping[SchemaName, str]
"""The topic of each message."""


def subject_of(topic: str) -> str:
    """The subject of a topic's values: Confluent's TopicNameStrategy."""
    return f"{topic}-value"


def wanted_level(name: SchemaName) -> str:
    """The compatibility level of a registry that holds the contract's promise, against all versions."""
    return f"{COMPATIBILITY[name]}_TRANSITIVE"


def find(registry: SchemaRegistry, subject: str, fingerprint: bytes) -> Registered | None:
    """The newest version of a subject that is that schema, whatever its documentation and layout."""
    return _newest(registry.versions(subject), fingerprint)


@dataclass(frozen=True, slots=True)
class SubjectState:
    """What a registry has of one of our schemas.

    Attributes:
        current: the registered version that is today's schema; None where there is none.
        missing: our released versions that are not registered and can still be, in their order.
        foreign: registered versions that are none of ours.
        level: the compatibility level that is set for the subject; None where the registry's own holds.
        incompatible: registered versions that today's schema is incompatible with, in the registry's own opinion.
    """

    name: SchemaName
    topic: str
    current: Registered | None
    missing: tuple[int, ...]
    foreign: tuple[int, ...]
    level: str | None
    incompatible: tuple[int, ...]

    @property
    def subject(self) -> str:
        """The subject of the topic's values."""
        return subject_of(self.topic)

    @property
    def changes(self) -> bool:
        """Whether `apply` would change something."""
        return bool(self.missing) or self.level != wanted_level(self.name)


def look(registry: SchemaRegistry, name: SchemaName, topic: str) -> SubjectState:
    """Ask a registry for all that it has of a schema; raises DependencyUnavailable."""
    subject = subject_of(topic)
    found = registry.versions(subject)
    ours = releases(name)
    known = {release.fingerprint for release in ours}
    registered = [r.version for r in ours if _newest(found, r.fingerprint) is not None]
    # Registered after a newer one, an older version would be the subject's latest.
    newest = max(registered, default=0)
    current = _newest(found, ours[-1].fingerprint)
    return SubjectState(
        name=name,
        topic=topic,
        current=current,
        missing=tuple(r.version for r in ours if r.version > newest),
        foreign=tuple(each.version for each in found if _fingerprint(each) not in known),
        level=registry.compatibility(subject) if found else None,
        incompatible=tuple(
            each.version for each in found if not registry.is_compatible(subject, each.version, ours[-1].text)
        ),
    )


def look_at_all(registry: SchemaRegistry, topics: Topics) -> list[SubjectState]:
    """`look` for each message."""
    return [look(registry, name, topics[name]) for name in SCHEMA_NAMES]


def apply(registry: SchemaRegistry, state: SubjectState, keep_level: bool = False) -> None:
    """Register what is missing, and set the level first, so that the registry checks it.

    Raises:
        RegistryRefusal: the registry does not make a change.
        DependencyUnavailable: it does not answer.
    """
    texts = {release.version: release.text for release in releases(state.name)}
    if not keep_level and state.level != wanted_level(state.name):
        registry.set_compatibility(state.subject, wanted_level(state.name))
    for version in state.missing:
        registry.register(state.subject, texts[version])


def _newest(versions: list[Registered], fingerprint: bytes) -> Registered | None:
    return next((each for each in reversed(versions) if _fingerprint(each) == fingerprint), None)


def _fingerprint(version: Registered) -> bytes | None:
    """None for a schema that could not be a message of ours."""
    try:
        return schema_fingerprint(parse_writer(json.loads(version.text)))
    except (ValueError, UnusableSchema):
        return None
