"""One test's own topics and group on a shared broker, filled with records and checked at the end."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas import SequenceRecord, decode_dead_letter, decode_prediction, encode_record
from tests.support.harness import PARTITIONS, WAIT_S, committed, produce, wait_until
from tests.support.kafka.broker import Broker

UNIT = "ATGGCTAAAGGTCTGCCATTCGACGGTACCGAATGG"


@dataclass(frozen=True)
class Job:
    """Topics and a group of one test's own, and the settings that point a service at them."""

    bootstrap: str
    name: str

    @classmethod
    def create(cls, broker: Broker) -> Job:
        """A job of a new name, with its topics."""
        job = cls(broker.bootstrap_servers, f"job-{uuid.uuid4().hex[:8]}")
        broker.create_topics({f"{job.name}.{topic}": PARTITIONS for topic in ("in", "out", "dlq")})
        return job

    @property
    def variables(self) -> dict[str, str]:
        return {
            "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "VIRNUCPRO_INPUT_TOPIC": f"{self.name}.in",
            "VIRNUCPRO_OUTPUT_TOPIC": f"{self.name}.out",
            "VIRNUCPRO_DLQ_TOPIC": f"{self.name}.dlq",
            "VIRNUCPRO_GROUP_ID": self.name,
            "VIRNUCPRO_KAFKA_SESSION_TIMEOUT_MS": "6000",
        }

    def worker(self, number: int) -> dict[str, str]:
        return self.variables | {"VIRNUCPRO_INSTANCE_ID": f"worker-{number}"}

    def publish(self, first: int, last: int) -> None:
        messages = ({"key": str(n).encode(), "value": record(n)} for n in range(first, last))
        produce(self.bootstrap, messages, f"{self.name}.in")

    def read_all(self, topic: str) -> list[Message]:
        """What a read_committed reader sees of a topic up to its end; waits for open transactions to end."""
        return read_to_the_end(self.bootstrap, f"{self.name}.{topic}")

    def committed(self) -> int:
        """How many input offsets the group has committed; 0 while its coordinator does not say."""
        try:
            return committed(self.bootstrap, self.name, f"{self.name}.in")
        except KafkaException:  # a broker that has just started loads the group first
            return 0

    def finish(self, count: int) -> None:
        """Wait until every input offset is committed."""
        wait_until(lambda: self.committed() == count, "all committed", 90)

    def check(self, count: int) -> None:
        """Every good record predicted exactly once, every bad one dead-lettered exactly once, all in order."""
        predicted, dead = self.read_all("out"), self.read_all("dlq")
        ids = Counter(decode_prediction(m.value()).id for m in predicted)
        values = Counter(decode_dead_letter(m.value()).value for m in dead)
        assert ids == Counter({f"r{n}": 1 for n in range(count) if n % 10 != 9})
        assert values == Counter({record(n): 1 for n in range(count) if n % 10 == 9})
        last: dict[int, int] = {}
        for message in predicted:
            partition, offset = (
                message.partition(),
                decode_prediction(message.value()).provenance.source_offset,
            )
            assert partition is not None
            assert offset is not None
            assert offset > last.get(partition, -1), "in input order"
            last[partition] = offset


def record(number: int) -> bytes:
    if number % 10 == 9:
        return f"junk {number}".encode()
    return encode_record(SequenceRecord(f"r{number}", UNIT * (5 + 7 * number % 20)))


def read_to_the_end(bootstrap: str, topic: str) -> list[Message]:
    """All committed messages of a topic that ends where it ended when this was called."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"test-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    try:
        partitions = [TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
        left = {tp.partition: consumer.get_watermark_offsets(tp, timeout=WAIT_S)[1] for tp in partitions}
        consumer.assign(partitions)
        found: list[Message] = []
        deadline = time.monotonic() + WAIT_S
        while left:
            assert time.monotonic() < deadline, (
                f"{topic} is not read to its end: {left} (an open transaction?)"
            )
            message = consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found.append(message)
                continue
            assert error.code() == KafkaError._PARTITION_EOF, error
            partition, end = message.partition(), message.offset()
            assert partition is not None
            assert end is not None
            if end >= left.get(partition, 0):
                left.pop(partition, None)
        return found
    finally:
        consumer.close()
