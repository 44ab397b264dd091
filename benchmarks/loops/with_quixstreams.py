"""The loop inside quixstreams: its sink for batches gets the messages of each checkpoint. At least once.

python -m benchmarks.loops.with_quixstreams --bootstrap HOST:PORT --group NAME --source TOPIC --sink TOPIC
"""

from __future__ import annotations

from confluent_kafka import Producer
from quixstreams import Application  # type: ignore[import-not-found]
from quixstreams.sinks import BatchingSink, SinkBatch  # type: ignore[import-not-found]

from benchmarks.loops.arguments import Loop, announce, parsed


class Answers(BatchingSink):  # type: ignore[misc]  # the package is not installed where this is checked
    """Scores what a checkpoint holds of a partition."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop
        self._producer = Producer(
            {"bootstrap.servers": loop.bootstrap, "linger.ms": 5, "compression.type": "lz4"}
        )

    def write(self, batch: SinkBatch) -> None:
        """Answer the messages of one partition, in the pieces that the other loops take."""
        for items in batch.iter_chunks(n=self._loop.records):
            chunk = list(items)
            answers = self._loop.model.answers([item.value for item in chunk])
            for item, answer in zip(chunk, answers, strict=True):
                self._producer.produce(self._loop.sink, answer, item.key)
                self._producer.poll(0)
        if left := self._producer.flush(30):
            raise RuntimeError(f"{left} answers are not acknowledged")


def main() -> None:
    """Command line."""
    loop = parsed(__doc__)
    application = Application(
        broker_address=loop.bootstrap,
        consumer_group=loop.group,
        auto_offset_reset="earliest",
        commit_every=4 * loop.records,  # a checkpoint of all partitions together
        loglevel="WARNING",
    )
    source = application.topic(loop.source, value_deserializer="bytes", key_deserializer="bytes")
    application.dataframe(source).sink(Answers(loop))
    announce()
    application.run()


if __name__ == "__main__":
    main()
