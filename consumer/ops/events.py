"""What the service's loop reports, each kind of event a class; `consumer/ops/listeners.py` says to whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import KafkaError

from consumer.scoring.model import ServedModel
from consumer.types import InFlight, Level, Limit, Partition, RawMessage, Source


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """The model is about to be loaded: its name or path, and the device, as the settings have them."""

    model: str
    device: str


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """The model is ready; `token_budget` is the tokens of a batch."""

    model: ServedModel
    token_budget: int


@dataclass(frozen=True, slots=True)
class BrokersChanged:
    """No broker answers any more (`up` is False), or one does again."""

    up: bool


@dataclass(frozen=True, slots=True)
class RnaPrepared:
    """A valid record holds a U; said on the thread that prepared it."""


@dataclass(frozen=True, slots=True)
class ConsumerError:
    """The consumer returned an error from which it recovers."""

    error: KafkaError


@dataclass(frozen=True, slots=True)
class Rebalanced:
    """Partitions came (perhaps none: the group was joined), or went."""

    kind: Literal["assigned", "revoked", "lost"]
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class MessageRead:
    """A message was taken from Kafka."""

    message: RawMessage


@dataclass(frozen=True, slots=True)
class RecordsSkipped:
    """Input was deleted before it was read: the offsets from `first` to the one before `end`."""

    partition: Partition
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class TopicRecreated:
    """A topic was deleted and recreated. The input is read again from its first message; `dropped` messages in flight
    came from the old topic, or may have."""

    topic: str
    dropped: int


@dataclass(frozen=True, slots=True)
class ResultStale:
    """A result was dropped: before it was finished its partition went away, or its log was cut."""

    source: Source


@dataclass(frozen=True, slots=True)
class Paused:
    """All partitions are paused, and why."""

    limit: Limit
    in_flight: InFlight


@dataclass(frozen=True, slots=True)
class Resumed:
    """All partitions are read again."""

    in_flight: InFlight


@dataclass(frozen=True, slots=True)
class Turned:
    """The loop has turned: seconds since it did before, whether it reads, age of the oldest message in flight."""

    gap_s: float
    level: Level
    oldest_s: float


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far one partition is behind: offsets from the first unanswered message to the end; its age in seconds."""

    records: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LagMeasured:
    """The lag of each assigned partition for which it is known."""

    partitions: Mapping[Partition, PartitionLag]


@dataclass(frozen=True, slots=True)
class Draining:
    """Nothing more is read; what is in flight is finished."""

    in_flight: InFlight


@dataclass(frozen=True, slots=True)
class Drained:
    """The drain has ended; `complete` if everything was delivered and committed."""

    complete: bool
    in_flight: InFlight


Event = (
    ModelLoading
    | ModelLoaded
    | BrokersChanged
    | RnaPrepared
    | ConsumerError
    | Rebalanced
    | MessageRead
    | RecordsSkipped
    | TopicRecreated
    | ResultStale
    | Paused
    | Resumed
    | Turned
    | LagMeasured
    | Draining
    | Drained
)
