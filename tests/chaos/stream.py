"""The input of a run: numbered records, a hundredth of them poison, and the thread that publishes them."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

from confluent_kafka import KafkaError, Message, Producer

from schemas import Reason, SequenceRecord, encode_record
from tests.chaos.checker import PREDICTION, Expected
from tests.chaos.clients import client_config
from tests.support.noop_service import FAILS

PARTITIONS = 6
_POISON = 0.01
_FLUSH_S = 90.0
_SEQUENCE = "ATGGCTAAAGGTCTGCCATTCGACGGTACCGAATGG" * 15


class Stream:
    """Which record each number stands for; the same for the same seed."""

    def __init__(self, seed: int, records: int) -> None:
        rng = random.Random(f"stream {seed}")
        self.expected = [Expected(rng.randrange(PARTITIONS), _outcome(rng)) for _ in range(records)]

    def __len__(self) -> int:
        return len(self.expected)

    def value(self, number: int) -> bytes:
        match self.expected[number].outcome:
            case Reason.MALFORMED:
                return f"junk {number}".encode()
            case Reason.INFERENCE_FAILED:
                return encode_record(SequenceRecord(f"r{number}{FAILS}", _SEQUENCE))
            case _:
                return encode_record(SequenceRecord(f"r{number}", _SEQUENCE))


def _outcome(rng: random.Random) -> str:
    if rng.random() >= _POISON:
        return PREDICTION
    return rng.choice((Reason.MALFORMED, Reason.INFERENCE_FAILED)).value


@dataclass(slots=True)
class _Reports:
    acknowledged: int = 0
    failed: str | None = None

    def __call__(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self.failed = error.str()
        self.acknowledged += error is None


class Publisher(threading.Thread):
    """Publishes a stream evenly over a number of seconds, by an idempotent producer that waits for any broker.

    The key of a message is the number of its record.
    """

    def __init__(self, bootstrap: str, topic: str, stream: Stream, seconds: float) -> None:
        super().__init__(name="publisher", daemon=True)
        self._topic, self._stream, self._seconds = topic, stream, seconds
        self._reports = _Reports()
        self._stopping = threading.Event()
        self._producer = Producer(
            {
                **client_config(bootstrap),
                "enable.idempotence": True,
                "message.timeout.ms": 0,  # never: a record given up would look like one lost
                "linger.ms": 5,
            }
        )
        self.left: int | None = None

    @property
    def published(self) -> int:
        """How many records the broker has acknowledged."""
        return self._reports.acknowledged

    @property
    def failure(self) -> str | None:
        """Why not all of the stream got into Kafka, once that is clear."""
        if self._reports.failed is None and self.left:
            return f"{self.left} records were not acknowledged within {_FLUSH_S:.0f} s"
        return self._reports.failed

    def run(self) -> None:
        begun = time.monotonic()
        for number, expected in enumerate(self._stream.expected):
            while time.monotonic() < begun + number / len(self._stream) * self._seconds:
                if self._stopping.is_set():
                    return
                self._producer.poll(0.01)
            self._producer.produce(
                self._topic,
                key=str(number),
                value=self._stream.value(number),
                partition=expected.partition,
                on_delivery=self._reports,
            )
        self.left = self._producer.flush(_FLUSH_S)

    def close(self) -> None:
        """Stop where it is."""
        self._stopping.set()
        self.join()
