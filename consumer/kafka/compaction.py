"""Refuses compacted topics for answers, before anything is read.

A compacted topic takes no message without a key, so the answer to a record without one would stop its partition at
every start. And it keeps the newest message of each key only: answers to two records of one key would become one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType

from consumer.errors import ServiceError
from consumer.kafka.error_table import ENSURE_TOPICS

log = structlog.get_logger(__name__)

_ANSWER_S = 5.0
_POLICY = "cleanup.policy"


def refuse_compacted(admin: Any, topics: Mapping[str, str]) -> None:
    """Refuse the topics whose `cleanup.policy` has `compact` in it; a broker that does not say is only logged.

    Args:
        admin: a `confluent_kafka.admin.AdminClient`.
        topics: the variable that names each topic, by topic.

    Raises:
        ServiceError: a topic is compacted; one line names them all.
    """
    compacted = [topic for topic, policy in _policies(admin, topics) if "compact" in policy.split(",")]
    if compacted:
        named = ", ".join(f"{topic} ({topics[topic]})" for topic in compacted)
        raise ServiceError(
            f"compacted topics cannot take answers: {named}: a message without a key is refused, and of two with one "
            f"key the first is deleted; set {_POLICY}=delete on each ({ENSURE_TOPICS}), or name another topic"
        )


def _policies(admin: Any, topics: Iterable[str]) -> Iterable[tuple[str, str]]:
    wanted = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    answers: Mapping[ConfigResource, Future[Any]] = admin.describe_configs(wanted, request_timeout=_ANSWER_S)
    for resource, answer in answers.items():
        try:
            entries = answer.result(2 * _ANSWER_S)
        except KafkaException as raised:
            _not_checked(resource.name, raised.args[0])
        else:
            yield resource.name, entries[_POLICY].value or ""


def _not_checked(topic: str, error: KafkaError) -> None:
    """The right DESCRIBE_CONFIGS is one that the service can do without."""
    log.warning("cleanup_policy_not_checked", topic=topic, error=error.str(), code=error.name())
