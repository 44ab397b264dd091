"""What a test does to a broker from outside, as its administrator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

_ANSWER_S = 30


def create_topics(bootstrap: str, topics: Mapping[str, int], config: Mapping[str, str]) -> None:
    """Create topics, each with its number of partitions and the brokers' default of replicas."""
    admin = _admin(bootstrap)
    new = [NewTopic(name, count, config=dict(config)) for name, count in topics.items()]
    for future in admin.create_topics(new, request_timeout=_ANSWER_S).values():
        future.result(_ANSWER_S)


def add_partitions(bootstrap: str, topics: Mapping[str, int]) -> None:
    """Raise the number of partitions of topics, of all of them in one request: the brokers learn of all at once."""
    admin = _admin(bootstrap)
    wanted = [NewPartitions(name, count) for name, count in topics.items()]
    for future in admin.create_partitions(wanted, request_timeout=_ANSWER_S).values():
        future.result(_ANSWER_S)


def replicas_behind(bootstrap: str, seconds: float) -> list[str]:
    """The partitions of all topics that have no leader, or a replica that is not in sync.

    Raises:
        KafkaException: no broker answers within so many seconds.
    """
    topics = _admin(bootstrap).list_topics(timeout=seconds).topics
    return [
        f"{name}-{number}"
        for name, topic in topics.items()
        for number, partition in topic.partitions.items()
        if partition.leader < 0 or len(partition.isrs) < len(partition.replicas)
    ]


def delete_topic(bootstrap: str, topic: str) -> None:
    """Delete a topic with all that is in it."""
    admin = _admin(bootstrap)
    for future in admin.delete_topics([topic], request_timeout=_ANSWER_S).values():
        future.result(_ANSWER_S)


def delete_records(bootstrap: str, topic: str, before: Mapping[int, int]) -> None:
    """Delete what lies before an offset of each of these partitions, as retention does."""
    admin = _admin(bootstrap)
    wanted = [TopicPartition(topic, number, offset) for number, offset in before.items()]
    for future in admin.delete_records(wanted, request_timeout=_ANSWER_S).values():
        future.result(_ANSWER_S)


def configure_topic(bootstrap: str, topic: str, name: str, value: str) -> None:
    """Change one setting of a topic."""
    admin = _admin(bootstrap)
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([change], request_timeout=_ANSWER_S).values():
        future.result(_ANSWER_S)


def grant(bootstrap: str, user: str, rights: Iterable[tuple[ResourceType, str, AclOperation]]) -> None:
    """Give a user rights, each to do one thing with one resource."""
    admin = _admin(bootstrap)
    bindings = [
        AclBinding(
            resource,
            name,
            ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        for resource, name, operation in rights
    ]
    for future in admin.create_acls(bindings, request_timeout=_ANSWER_S).values():
        future.result(_ANSWER_S)


def _admin(bootstrap: str) -> AdminClient:
    """A client, to be kept until its futures are done."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
