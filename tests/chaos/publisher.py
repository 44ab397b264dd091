"""The thread that publishes the records of a run, evenly over its time, and what faults add to them."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tests.chaos.checker import PREDICTION, Expected
from tests.chaos.clients import client_config
from tests.chaos.journal import Journal
from tests.chaos.records import Maker, Record, ordinary
from tests.support.raw_producer import produce_raw

_FLUSH_S = 90.0
_HELD_S = 120.0
_METADATA_S = 10.0


@dataclass(slots=True)
class _Reports:
    """What the broker says of each message; `number` is its record's."""

    journal: Journal
    acknowledged: int = 0
    failed: str | None = None

    def __call__(self, number: int, error: KafkaError | None, message: Message) -> None:
        offset = self.journal.expected[number].offset
        if error is not None:
            self.failed = error.str()
        elif message.offset() not in (None, offset):  # none for one that was sent again after a lost report
            self.failed = f"record {number} got the offset {message.offset()} instead of {offset}"
        self.acknowledged += error is None


class Publisher(threading.Thread):
    """Publishes by an idempotent producer that waits for any broker; the key of a message is the number of its record.

    Args:
        journal: where each record is entered before it is sent.
        seed: decides what each record is and where it goes.
        records: how many there are, beside what faults add.
        seconds: how long they take.
    """

    def __init__(
        self, bootstrap: str, topic: str, journal: Journal, seed: int, records: int, seconds: float
    ) -> None:
        super().__init__(name="publisher", daemon=True)
        self._servers, self._topic, self._journal = bootstrap, topic, journal
        self._rng = random.Random(f"stream {seed}")
        self._records, self._seconds = records, seconds
        self._reports = _Reports(journal)
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping, self._held, self._released = threading.Event(), threading.Event(), threading.Event()
        self._producer = self._new_producer()
        self._failure: str | None = None
        self.is_through = False
        """All of the records were sent, beside what is still asked for."""

    @property
    def published(self) -> int:
        """How many records the broker has acknowledged."""
        return self._reports.acknowledged

    @property
    def failure(self) -> str | None:
        """Why not all got into Kafka, once that is clear."""
        return self._failure or self._reports.failed

    def run(self) -> None:
        try:
            self._publish_all()
        except Exception as error:  # noqa: BLE001
            self._failure = f"{type(error).__name__}: {error}"  # told by the run, which looks at it

    # ---- orders from other threads ----------------------------------------------------------------------------

    def send(self, makers: Sequence[Maker], share: float) -> None:
        """Publish these records at once, all in one partition; `share` (0 to 1) chooses it."""
        self._orders.put(lambda: self._burst(makers, int(share * self._journal.partitions)))

    def hold(self) -> None:
        """Stop where it is, with all that was sent acknowledged, until `go_on`; returns when it has stopped.

        Raises:
            TimeoutError: the broker does not acknowledge.
        """
        self._held.clear()
        self._released.clear()
        self._orders.put(self._hold)
        if not self._held.wait(_FLUSH_S):
            raise TimeoutError("the publisher does not get everything acknowledged")

    def go_on(self) -> None:
        """After `hold`: by a new producer, for the topic may be another."""
        self._released.set()

    def finish(self) -> None:
        """Send what is left, and end."""
        self._stopping.set()
        self._released.set()
        self.join(_FLUSH_S + _HELD_S)

    # ---- on its thread ------------------------------------------------------------------------------------------

    def _publish_all(self) -> None:
        begun = time.monotonic()
        for index in range(self._records):
            while time.monotonic() < begun + index / self._records * self._seconds:
                if self._stopping.is_set():
                    return
                self._producer.poll(0.01)
                self._obey()
            self._obey()
            self._publish(ordinary, self._rng.randrange(self._journal.partitions))
        self.is_through = True
        while not self._stopping.is_set():
            self._producer.poll(0.05)
            self._obey()
        self._obey()
        self._flush()

    def _obey(self) -> None:
        while not self._orders.empty():
            self._orders.get()()

    def _hold(self) -> None:
        self._flush()
        self._held.set()
        if not self._released.wait(_HELD_S):
            raise TimeoutError("held for too long")
        self._producer = self._new_producer()

    def _burst(self, makers: Sequence[Maker], partition: int) -> None:
        for maker in makers:
            self._publish(maker, partition)

    def _publish(self, maker: Maker, partition: int) -> None:
        number = len(self._journal.expected)
        record = maker(number, self._rng)
        value = None if record.outcome == PREDICTION else record.value
        self._journal.add(Expected(partition, record.outcome, headers=record.kept_headers, value=value))
        if record.headers is None:
            self._send_raw(number, record, partition)
        else:
            self._send(number, record, partition)

    def _send(self, number: int, record: Record, partition: int) -> None:
        deadline = time.monotonic() + _FLUSH_S
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    key=str(number),
                    value=record.value,
                    partition=partition,
                    headers=list(record.headers or ()),
                    on_delivery=lambda error, message: self._reports(number, error, message),
                )
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                    raise
                self._producer.list_topics(self._topic, timeout=_METADATA_S)  # it is a new one
            else:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the client takes no message for partition {partition}")

    def _send_raw(self, number: int, record: Record, partition: int) -> None:
        """By another client, so what was sent before has to be there first."""
        self._flush()
        message = (record.value, record.raw_headers)
        produce_raw(self._servers, self._topic, [message], partition, str(number).encode(), _FLUSH_S)
        self._reports.acknowledged += 1

    def _flush(self) -> None:
        left = self._producer.flush(_FLUSH_S)
        if left:
            raise TimeoutError(f"{left} records were not acknowledged within {_FLUSH_S:.0f} s")

    def _new_producer(self) -> Producer:
        return Producer(
            {
                **client_config(self._servers),
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # never: a record given up would look like one lost
                "message.max.bytes": 2_000_000,
                "compression.type": "zstd",
                "linger.ms": 5,
            }
        )
