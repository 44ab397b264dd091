"""Reads the topics of a cluster, and creates and alters them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from consumer.errors import ServiceError
from consumer.kafka.error_table import Kind, classify
from consumer.kafka.topic_plan import CONFIGS, Difference, FoundTopic, WantedTopic, partitions_of

log = structlog.get_logger(__name__)

_ANSWER_S = 10.0
_BROKERS_DEFAULT = -1


class TopicsRefused(ServiceError):
    """The broker does not create or alter a topic, or does not answer."""


def find_topics(admin: Any, names: Iterable[str]) -> dict[str, FoundTopic]:
    """The topics of these names that exist.

    Args:
        admin: a `confluent_kafka.admin.AdminClient`.

    Raises:
        TopicsRefused: the broker does not answer.
    """
    try:
        # Of all topics: asking for one would create it where the broker creates topics by itself.
        known = admin.list_topics(timeout=_ANSWER_S).topics
    except KafkaException as error:
        raise TopicsRefused(
            f"the broker does not list its topics ({error.args[0].str()}): is it up?"
        ) from error
    there = {name: known[name] for name in names if name in known and known[name].error is None}
    configs = _configs(admin, there)
    return {
        name: FoundTopic(
            name,
            len(entry.partitions),
            min((len(each.replicas) for each in entry.partitions.values()), default=0),
            configs.get(name),
        )
        for name, entry in there.items()
    }


def mend(
    admin: Any, wanted: Sequence[WantedTopic], found: Mapping[str, FoundTopic], change: Difference
) -> None:
    """Make one change, of those that a client can make.

    Raises:
        TopicsRefused: the broker refuses it, or does not answer.
    """
    (topic,) = [each for each in wanted if each.name == change.topic]
    match change.change:
        case "create":
            new = NewTopic(
                topic.name,
                partitions_of(topic, wanted, found),
                topic.replication or _BROKERS_DEFAULT,
                config=topic.config,
            )
            answers = admin.create_topics([new], request_timeout=_ANSWER_S)
        case "partitions":
            answers = admin.create_partitions(
                [NewPartitions(topic.name, partitions_of(topic, wanted, found))], request_timeout=_ANSWER_S
            )
        case "config":
            entry = ConfigEntry(
                change.setting,
                topic.config[change.setting],
                incremental_operation=AlterConfigOpType.SET,
            )
            resource = ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=[entry])
            answers = admin.incremental_alter_configs([resource], request_timeout=_ANSWER_S)
        case None:
            raise ValueError(f"{change} is not made by a client")
    for answer in answers.values():
        _done(answer, change)


def _configs(admin: Any, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Settings by topic; a topic is left out where the broker does not show them (the right DESCRIBE_CONFIGS)."""
    wanted = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not wanted:
        return {}
    answers: Mapping[ConfigResource, Future[Any]] = admin.describe_configs(wanted, request_timeout=_ANSWER_S)
    found: dict[str, dict[str, str]] = {}
    for resource, answer in answers.items():
        try:
            entries = answer.result(2 * _ANSWER_S)
        except KafkaException as error:
            log.info("topic_settings_not_shown", topic=resource.name, error=error.args[0].str())
            continue
        found[resource.name] = {name: entries[name].value or "" for name in CONFIGS if name in entries}
    return found


def _done(answer: Future[Any], change: Difference) -> None:
    try:
        answer.result(2 * _ANSWER_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return  # made by another program since, or not shown yet
        problem = classify(error.args[0])
        cure = problem.cure
        if problem.kind is Kind.UNAUTHORIZED:
            right = {"create": "CREATE", "partitions": "ALTER"}.get(str(change.change), "ALTER_CONFIGS")
            cure = f"grant it {right} on the topic"
        raise TopicsRefused(f"the broker refuses to mend {change} ({problem.text}): {cure}") from error
    except FutureTimeout as error:
        raise TopicsRefused(f"the broker does not answer the request to mend {change}: is it up?") from error
