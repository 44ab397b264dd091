"""A plain loop: poll, decode, score a padded batch, produce, commit. At least once. Runs until SIGTERM.

python -m benchmarks.loops.plain --bootstrap HOST:PORT --group NAME --source TOPIC --sink TOPIC
"""

from __future__ import annotations

import signal

from confluent_kafka import Consumer, KafkaException, Producer

from benchmarks.loops.arguments import announce, parsed


def main() -> None:
    """Command line."""
    loop = parsed(__doc__)
    consumer = Consumer(
        {
            "bootstrap.servers": loop.bootstrap,
            "group.id": loop.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    producer = Producer({"bootstrap.servers": loop.bootstrap, "linger.ms": 5, "compression.type": "lz4"})
    consumer.subscribe([loop.source])
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    announce()
    while not stopping:
        messages = consumer.consume(loop.records, timeout=0.5)
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaException(error)
        if not messages:
            continue
        answers = loop.model.answers([message.value() or b"" for message in messages])
        for message, answer in zip(messages, answers, strict=True):
            producer.produce(loop.sink, answer, message.key())
            producer.poll(0)
        if left := producer.flush(30):
            raise SystemExit(f"{left} answers are not acknowledged")
        consumer.commit(asynchronous=False)
    consumer.close()


if __name__ == "__main__":
    main()
