"""Publishes messages of a topic again, to the partition that they are in: key, value and headers byte for byte.

python republish.py localhost:9092 < places.txt

A line of the input is a place, `topic/partition/offset`, the form of the header `vnp-source`. What the broker has
confirmed is printed. Places that hold no message any more are named on stderr, and the exit code is 1. The timestamp is
new.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections import defaultdict

from confluent_kafka import Consumer, Message, Producer, TopicPartition

WAIT_S = 60.0
FAR = 1000
"""Messages in between that are read rather than jumped over."""

Partition = tuple[str, int]


def places(lines: list[str]) -> dict[Partition, set[int]]:
    """The offsets of each partition."""
    found: dict[Partition, set[int]] = defaultdict(set)
    for number, line in enumerate(lines, 1):
        topic, _, rest = line.strip().partition("/")
        partition, _, offset = rest.partition("/")
        if not (topic and partition.isdecimal() and offset.isdecimal()):
            sys.exit(f"line {number} is {line.strip()!r}: expected topic/partition/offset")
        found[topic, int(partition)].add(int(offset))
    return found


class Republisher:
    """Reads places and publishes what is there."""

    def __init__(self, bootstrap: str) -> None:
        options = {"bootstrap.servers": bootstrap}
        reading = {"group.id": f"republish-{uuid.uuid4()}", "enable.auto.commit": False}
        self._consumer = Consumer(options | reading | {"isolation.level": "read_committed"})
        self._producer = Producer(options | {"enable.idempotence": True, "message.max.bytes": 900_000_000})
        self.failed: list[str] = []

    def run(self, partition: Partition, wanted: set[int]) -> None:
        """Republish the messages of one partition; returns when the broker has confirmed them."""
        first, end = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=WAIT_S)
        left = sorted(offset for offset in wanted if first <= offset < end)
        gone = wanted.difference(left)
        position, deadline = -FAR, time.monotonic() + WAIT_S
        while left:
            if left[0] - position >= FAR:
                position = left[0]
                self._consumer.assign([TopicPartition(*partition, position)])
            message = self._consumer.poll(1.0)
            if message is None or message.error():
                at_end = self._consumer.position([TopicPartition(*partition)])[0].offset >= end
                if at_end or time.monotonic() > deadline:
                    break
                continue
            deadline = time.monotonic() + WAIT_S
            offset = message.offset() or 0
            position = offset + 1
            while left and left[0] < offset:  # compacted, aborted, or a marker
                gone.add(left.pop(0))
            if left and left[0] == offset:
                left.pop(0)
                self._send(message)
        unconfirmed = self._producer.flush(WAIT_S)
        if unconfirmed:
            self.failed.append(f"{unconfirmed} messages of {partition[0]}/{partition[1]} are not confirmed")
        self.failed += [
            f"{partition[0]}/{partition[1]}/{offset} is not there" for offset in sorted(gone | set(left))
        ]

    def _send(self, message: Message) -> None:
        place = f"{message.topic()}/{message.partition()}/{message.offset()}"

        def confirmed(error: object, _: Message) -> None:
            if error:
                self.failed.append(f"{place}: {error}")
            else:
                print(place, flush=True)

        while True:
            try:
                self._producer.produce(
                    message.topic() or "",
                    message.value(),
                    message.key(),
                    message.partition() or 0,
                    on_delivery=confirmed,
                    headers=message.headers() or [],
                )
            except BufferError:
                self._producer.poll(1.0)
            else:
                self._producer.poll(0)
                return

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def main(bootstrap: str) -> int:
    """Returns the exit code."""
    wanted = places(sys.stdin.readlines())
    republisher = Republisher(bootstrap)
    try:
        for partition, offsets in sorted(wanted.items()):
            republisher.run(partition, offsets)
    finally:
        republisher.close()
    for line in republisher.failed:
        print(line, file=sys.stderr)
    return 1 if republisher.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
