"""Clients without a broker, for tests of the code around them: every delay, order and failure is the test's choice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition


class FakeProducer:
    """Takes messages; reports them when `acknowledge` or `fail` says so, inside the next `poll`."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.sent: list[dict[str, Any]] = []
        self.waiting: deque[dict[str, Any]] = deque()
        self.acknowledge_at_once = False
        self.refuse_at_once: KafkaError | None = None
        self._reports: deque[Callable[[], None]] = deque()

    def produce(self, **message: Any) -> None:
        if len(self.waiting) >= self.room:
            raise BufferError("queue full")
        if self.refuse_at_once is not None:
            error, self.refuse_at_once = self.refuse_at_once, None
            raise KafkaException(error)
        self.sent.append(message)
        self.waiting.append(message)
        if self.acknowledge_at_once:
            self.acknowledge()

    def acknowledge(self, count: int | None = None) -> None:
        for _ in range(len(self.waiting) if count is None else count):
            self._report(None)

    def fail(self, error: KafkaError) -> None:
        self._report(error)

    def _report(self, error: KafkaError | None) -> None:
        message = self.waiting.popleft()
        self._reports.append(lambda: message["on_delivery"](error, None))

    def poll(self, timeout: float) -> int:
        reports, self._reports = self._reports, deque()
        for report in reports:
            report()
        return len(reports)


class FakeMessage:
    """What `poll` returns."""

    def __init__(
        self, number: int, offset: int, value: bytes | None = b"v", topic: str = "sequences"
    ) -> None:
        self._topic, self._number, self._offset, self._value = topic, number, offset, value

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._number

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return b"k"

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return [("h", b"1"), ("h", None)]

    def timestamp(self) -> tuple[int, int]:
        return (1, 1_700_000_000_000)


class FakeConsumer:
    """Hands out queued messages and runs queued rebalances inside `poll`, as the real one does."""

    def __init__(self) -> None:
        self.queue: deque[FakeMessage] = deque()
        self.events: deque[tuple[str, list[int]]] = deque()
        self.commits: list[tuple[dict[int, int], bool]] = []
        self.commit_error: KafkaError | None = None
        self.paused: set[int] = set()
        self.owned: set[int] = set()
        self.positions: dict[int, int] = {}
        self.group: dict[int, int | KafkaError] = {}  # committed offsets, or why they are not told
        self.sought: list[tuple[int, int]] = []
        self.polls = 0
        self.generation = 0
        self._callbacks: dict[str, Callable[..., None]] = {}

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self._callbacks = callbacks

    def poll(self, timeout: float) -> FakeMessage | None:
        self.polls += 1
        while self.events:
            event, numbers = self.events.popleft()
            partitions = [TopicPartition("sequences", number) for number in numbers]
            self._callbacks[f"on_{event}"](self, partitions)
            if event != "assign":
                self.owned -= set(numbers)
        return self._next()

    def _next(self) -> FakeMessage | None:
        for message in self.queue:
            if message.partition() in self.owned - self.paused:
                self.queue.remove(message)
                self.positions[message.partition()] = message.offset() + 1
                return message
        return None

    def consumer_group_metadata(self) -> object:
        self.generation += 1
        return self.generation

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.owned |= {tp.partition for tp in partitions}

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {tp.partition for tp in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {tp.partition for tp in partitions}

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        for tp in partitions:
            if isinstance(found := self.group.get(tp.partition, -1001), KafkaError):
                raise KafkaException(found)
            tp.offset = found
        return partitions

    def seek(self, partition: TopicPartition) -> None:
        self.sought.append((partition.partition, partition.offset))

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return [
            TopicPartition(tp.topic, tp.partition, self.positions.get(tp.partition, -1001))
            for tp in partitions
        ]

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition] | None:
        if self.commit_error is not None:
            error, self.commit_error = self.commit_error, None
            raise KafkaException(error)
        self.commits.append(({tp.partition: tp.offset for tp in offsets}, asynchronous))
        return None if asynchronous else offsets
