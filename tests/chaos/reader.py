"""Reads the answers with `read_committed` throughout the run, and tells the checker of each."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from consumer.kafka.headers import headers_of
from schemas import decode_dead_letter, decode_prediction
from tests.chaos.checker import PREDICTION, Answer, Checker, Headers, Topic, Violation
from tests.chaos.clients import client_config

Place = tuple[str, int]
"""A topic and a partition's number."""
_POLL_S = 0.1
_JOIN_S = 30.0
_SOURCE, _OURS = "vnp-source", "vnp-"


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
        partitions: of each topic, at the beginning.
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
        self._servers, self._topics, self._checker, self._tell = bootstrap, topics, checker, tell
        self._read = dict.fromkeys(topics, partitions)
        self._next: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._consumer = self._new_consumer()
        self.sightings: list[Sighting] = []
        self.passing_errors: Counter[str] = Counter()
        self.read_again = 0
        self.failure: str | None = None

    def run(self) -> None:
        try:
            self._assign()
            while not self._stopping.is_set():
                while not self._orders.empty():
                    self._orders.get()()
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

    def grow(self, partitions: int) -> None:
        """Read so many partitions of each topic from now on."""
        self._do(lambda: self._read.update(dict.fromkeys(self._read, partitions)))

    def leave(self, topic: str) -> None:
        """Read nothing more of a topic, which is about to be deleted."""
        self._do(lambda: self._forget(topic))

    def begin_again(self, topic: str, partitions: int) -> None:
        """Read a topic from its beginning: it has been created again."""
        self._do(lambda: self._read.update({topic: partitions}))

    def close(self) -> None:
        self._stopping.set()
        if self.is_alive():
            self.join(_JOIN_S)

    def _do(self, change: Callable[[], None]) -> None:
        """Change what is read, on the reader's thread, and wait until that is so."""
        done = threading.Event()

        def order() -> None:
            change()
            # A new client: one that knew the topic goes on asking with the ids and leader epochs of before.
            self._consumer.close()
            self._consumer = self._new_consumer()
            self._assign()
            done.set()

        self._orders.put(order)
        if not done.wait(_JOIN_S):
            raise TimeoutError("the reader does not take an order")

    def _forget(self, topic: str) -> None:
        del self._read[topic]
        for known in (self._next, self._ends):
            for place in [place for place in known if place[0] == topic]:
                del known[place]

    def _assign(self) -> None:
        places = [(topic, number) for topic, count in self._read.items() for number in range(count)]
        self._consumer.assign([TopicPartition(*place, self._next.get(place, 0)) for place in places])

    def _new_consumer(self) -> Consumer:
        return Consumer(
            {
                **client_config(self._servers),
                "group.id": "chaos-reader",  # needed by the client; it never joins, nor commits
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",  # a position that is gone must be an error, never a new beginning
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
            }
        )

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
        source, own, headers = _sorted(headers_of(message) or ())
        if topic == "predictions":
            prediction = decode_prediction(value)
            stamped = prediction.provenance
            if prediction.id != f"r{number}" or (stamped.source_partition, stamped.source_offset) != source:
                number = -1
            return Answer(number, topic, place[1], offset, PREDICTION, source, own, headers)
        letter = decode_dead_letter(value)
        return Answer(
            number, topic, place[1], offset, letter.reason.value, source, own, headers, letter.value
        )


def _sorted(headers: Headers) -> tuple[tuple[int, int] | None, Headers, Headers]:
    """Input partition and offset as the one vnp-source header names them; the service's other headers; the input's."""
    sources = [value or b"" for name, value in headers if name == _SOURCE]
    parts = sources[0].decode().rsplit("/", 2) if len(sources) == 1 else []
    source = (int(parts[1]), int(parts[2])) if len(parts) == 3 else None
    ours = tuple(header for header in headers if header[0].startswith(_OURS) and header[0] != _SOURCE)
    return source, ours, tuple(header for header in headers if not header[0].startswith(_OURS))
