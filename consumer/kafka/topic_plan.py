"""What topics should be like, and how those of a cluster differ from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

RETENTION, MAX_MESSAGE, MIN_INSYNC, POLICY = (
    "retention.ms",
    "max.message.bytes",
    "min.insync.replicas",
    "cleanup.policy",
)
CONFIGS = (RETENTION, MAX_MESSAGE, MIN_INSYNC, POLICY)
"""The settings of a topic that are compared."""
DEFAULT_PARTITIONS = 4
"""Of a topic that is created, where neither a setting nor the input topic says how many."""

Change = Literal["create", "partitions", "config"]
"""How a difference is mended: the topic is created, gets more partitions, or another setting."""


@dataclass(frozen=True, slots=True)
class WantedTopic:
    """What one topic should be like; None where anything will do, and the broker's default when it is created.

    Attributes:
        role: the variable that names the topic, in errors.
        follows: a topic that it should have as many partitions as, while `partitions` is None.
        at_least: settings of which a larger value is as good.
        exact: all other settings.
    """

    name: str
    role: str
    partitions: int | None = None
    follows: str | None = None
    replication: int | None = None
    at_least: Mapping[str, int] = field(default_factory=dict)
    exact: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, str]:
        """Settings to create the topic with."""
        return {name: str(value) for name, value in self.at_least.items()} | dict(self.exact)


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """A topic of the cluster; `config` is None when the broker does not show it to this client."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One respect in which a topic is not as it should be.

    Attributes:
        setting: `topic` when it is missing, `partitions`, `replication`, or the name of a setting.
        change: how it is mended, None when a client cannot do that.
        cure: what a person does then; empty while `change` is there.
    """

    topic: str
    setting: str
    found: str | None
    wanted: str
    change: Change | None
    cure: str = ""

    def __str__(self) -> str:
        if self.change == "create":
            return f"{self.topic} does not exist"
        mended = f"; it cannot be altered: {self.cure}" if self.cure else ""
        return f"{self.topic}: {self.setting} is {self.found}, wanted {self.wanted}{mended}"


def differences(wanted: Sequence[WantedTopic], found: Mapping[str, FoundTopic]) -> list[Difference]:
    """How the topics of a cluster differ from what is wanted, in the order of `wanted`."""
    listed: list[Difference] = []
    for topic in wanted:
        there = found.get(topic.name)
        count = partitions_of(topic, wanted, found)
        if there is None:
            listed.append(Difference(topic.name, "topic", None, f"{count} partitions", "create"))
            continue
        if topic.partitions is not None or topic.follows is not None:
            listed += _partitions(there, count)
        if topic.replication is not None and there.replication != topic.replication:
            cure = "kafka-reassign-partitions.sh moves replicas"
            shown = str(there.replication), str(topic.replication)
            listed.append(Difference(topic.name, "replication", *shown, None, cure))
        if there.config is not None:
            listed += _configs(topic, there.config)
    return listed


def partitions_of(topic: WantedTopic, wanted: Sequence[WantedTopic], found: Mapping[str, FoundTopic]) -> int:
    """How many partitions a topic should have: its own number, that of the topic that it follows, or the default."""
    if topic.partitions is not None:
        return topic.partitions
    if topic.follows is None:
        return DEFAULT_PARTITIONS
    if topic.follows in found:
        return found[topic.follows].partitions
    (leader,) = [other for other in wanted if other.name == topic.follows]
    return partitions_of(leader, wanted, found)


def _partitions(there: FoundTopic, count: int) -> list[Difference]:
    if there.partitions == count:
        return []
    shown = str(there.partitions), str(count)
    if there.partitions < count:
        return [Difference(there.name, "partitions", *shown, "partitions")]
    cure = (
        "Kafka removes no partition; give the others as many (VIRNUCPRO_TOPIC_PARTITIONS), or create it again"
    )
    return [Difference(there.name, "partitions", *shown, None, cure)]


def _configs(topic: WantedTopic, config: Mapping[str, str]) -> list[Difference]:
    listed = []
    for name, least in topic.at_least.items():
        value = config.get(name, "")
        if not value.isdecimal() or int(value) < least:
            listed.append(Difference(topic.name, name, value, f"at least {least}", "config"))
    for name, exactly in topic.exact.items():
        if config.get(name) != exactly:
            listed.append(Difference(topic.name, name, config.get(name), exactly, "config"))
    return listed
