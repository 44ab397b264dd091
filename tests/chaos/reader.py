"""Reads the answers with `read_committed` throughout the run, and tells the checker of each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from schemas import decode_dead_letter, decode_prediction
from tests.chaos.checker import PREDICTION, Answer, Checker, Topic, Violation
from tests.chaos.clients import client_config

Place = tuple[str, int]
"""A topic and a partition's number."""
_POLL_S = 0.1
_JOIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """An answer, and when it was seen (monotonic)."""

    at: float
    place: Place
    offset: int


class Reader(threading.Thread):
    """One consumer without a group, on all partitions of both output topics from their beginning.

    Args:
        topics: names of the output topics, with what the checker calls them.
        tell: called with each violation as soon as it is seen, on this thread.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: Mapping[str, Topic],
        partitions: int,
        checker: Checker,
        tell: Callable[[Violation], None],
    ) -> None:
        super().__init__(name="reader", daemon=True)
        self._topics, self._checker, self._tell = topics, checker, tell
        self._places = [TopicPartition(topic, number, 0) for topic in topics for number in range(partitions)]
        self._next: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._stopping = threading.Event()
        self._consumer = Consumer(
            {
                **client_config(bootstrap),
                "group.id": "chaos-reader",  # needed by the client; it never joins, nor commits
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",  # a position that is gone must be an error, never a new beginning
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
            }
        )
        self.sightings: list[Sighting] = []
        self.passing_errors: Counter[str] = Counter()
        self.read_again = 0
        self.failure: str | None = None

    def run(self) -> None:
        try:
            self._consumer.assign(self._places)
            while not self._stopping.is_set():
                message = self._consumer.poll(_POLL_S)
                if message is not None:
                    self._take(message)
        except Exception as error:  # noqa: BLE001
            self.failure = f"{type(error).__name__}: {error}"  # told by the run, which looks at it
        finally:
            self._consumer.close()

    def position(self, topic: str, partition: int) -> int:
        """The offset behind all that a read_committed reader can see now of a partition; 0 before it was there."""
        return self._ends.get((topic, partition), 0)

    def close(self) -> None:
        self._stopping.set()
        if self.is_alive():
            self.join(_JOIN_S)

    def _take(self, message: Message) -> None:
        place = (str(message.topic()), int(message.partition() or 0))
        offset = int(message.offset() or 0)
        error = message.error()
        if error is None:
            if offset < self._next.get(place, 0):  # the reader's own repetition is none of the service's
                self.read_again += 1
                return
            self._next[place] = offset + 1
            self.sightings.append(Sighting(time.monotonic(), place, offset))
            for violation in self._checker.see(self._answer(message, place, offset)):
                self._tell(violation)
        elif error.code() == KafkaError._PARTITION_EOF:
            self._ends[place] = offset
        elif error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
            self.failure = f"the reader cannot go on at {place}: {error.str()}"
        else:
            self.passing_errors[error.name()] += 1

    def _answer(self, message: Message, place: Place, offset: int) -> Answer:
        """What a message says; a prediction must name the record of its key."""
        topic = self._topics[place[0]]
        key, value = message.key() or b"", message.value() or b""
        number = int(key) if key.isdigit() else -1
        if topic == "predictions":
            prediction = decode_prediction(value)
            if prediction.id != f"r{number}" or prediction.provenance.source_partition != place[1]:
                number = -1
            return Answer(number, topic, place[1], offset, PREDICTION)
        return Answer(number, topic, place[1], offset, decode_dead_letter(value).reason.value)
