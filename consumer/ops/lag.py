"""How far the service is behind the end of its partitions: in records, and in seconds.

librdkafka's own `consumer_lag` is -1 while offsets are committed in a producer's transactions, so the figures are
computed here, on the thread that owns the consumer and at most once a second, from what the client has in memory: no
request is made.

* records  from the first message that is not answered to the end of the partition that the client heard of last.
           Without a message in flight it counts from the client's position, which steps over a transaction's marker at
           the end: an idle transactional topic has a lag of 0.
* seconds  the age of that first message by its timestamp, or by when it was read if it has none. Of a message that was
           not read yet only the existence is known: it is as old as it has been known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from confluent_kafka import KafkaException, TopicPartition

from consumer.clock import Clock, monotonic
from consumer.ledger import Ledger
from consumer.ops.events import Event, LagMeasured, PartitionLag, Turned
from consumer.ops.listeners import LoopObserver
from consumer.types import Partition, RawMessage

INTERVAL_S = 1.0


class Positions(Protocol):
    """What is asked of the Kafka client; both answer from memory."""

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]: ...
    def get_watermark_offsets(self, partition: TopicPartition, *, cached: bool) -> tuple[int, int] | None: ...


class LagReporter:
    """A `LoopObserver` that passes each event on, and adds a `LagMeasured` behind a turn, at most once a second.

    Args:
        consumer: the one that reads.
        begins_at: the group's committed offset, for a partition of which nothing was read yet; None if it is not known.
        observer: who hears the events.
        now: wall clock, seconds since 1970-01-01 UTC.
    """

    def __init__(
        self,
        consumer: Positions,
        ledger: Ledger,
        begins_at: Callable[[Partition], int | None],
        observer: LoopObserver,
        clock: Clock = monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._consumer, self._ledger, self._begins_at = consumer, ledger, begins_at
        self._observer, self._clock, self._now = observer, clock, now
        self._due = clock()
        # Partitions with unread messages and none in flight: since when that is known.
        self._unread_since: dict[Partition, float] = {}

    def happened(self, event: Event) -> None:
        """One event of the loop, on its thread."""
        self._observer.happened(event)
        if isinstance(event, Turned) and self._clock() >= self._due:
            self._due = self._clock() + INTERVAL_S
            self._observer.happened(LagMeasured(self._measure()))

    def _measure(self) -> dict[Partition, PartitionLag]:
        """The lag of each assigned partition; one whose position or end is not known yet is left out."""
        assigned = self._ledger.assigned
        positions = self._positions(assigned)
        found: dict[Partition, PartitionLag] = {}
        for partition, position in positions.items():
            first, end = self._ledger.first(partition), self._end(partition)
            if first is not None:
                unanswered: int | None = first.source.offset
            else:
                unanswered = self._next_unread(partition, position)
            if end is None or unanswered is None:
                continue
            records = max(end - unanswered, 0 if first is None else 1)
            found[partition] = PartitionLag(records, self._age(partition, first, records))
        self._unread_since = {p: since for p, since in self._unread_since.items() if p in found}
        return found

    def _positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        if not partitions:
            return {}
        try:
            answers = self._consumer.position([TopicPartition(*partition) for partition in partitions])
        except KafkaException:  # the assignment changes at this moment: measured again in a second
            return {}
        return {Partition(str(tp.topic), int(tp.partition)): int(tp.offset) for tp in answers}

    def _end(self, partition: Partition) -> int | None:
        """The offset behind the last message, as the last fetch told it."""
        try:
            offsets = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
        except KafkaException:
            return None
        return offsets[1] if offsets is not None and offsets[1] >= 0 else None

    def _next_unread(self, partition: Partition, position: int) -> int | None:
        offset = max(position, self._ledger.last_received(partition) + 1)
        return offset if offset > 0 else self._begins_at(partition)

    def _age(self, partition: Partition, first: RawMessage | None, records: int) -> float:
        if first is None and records:
            return self._clock() - self._unread_since.setdefault(partition, self._clock())
        self._unread_since.pop(partition, None)
        if first is None:
            return 0.0
        if first.timestamp_ms is None:
            return self._clock() - first.received_at
        return max(0.0, self._now() - first.timestamp_ms / 1000)
