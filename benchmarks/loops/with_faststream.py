"""The loop inside FastStream: a subscriber that gets lists of messages. At least once.

python -m benchmarks.loops.with_faststream --bootstrap HOST:PORT --group NAME --source TOPIC --sink TOPIC
"""

from __future__ import annotations

import asyncio

from faststream import AckPolicy, FastStream  # type: ignore[import-not-found]
from faststream.confluent import KafkaBroker  # type: ignore[import-not-found]

from benchmarks.loops.arguments import announce, parsed


def main() -> None:
    """Command line."""
    loop = parsed(__doc__)
    broker = KafkaBroker(loop.bootstrap, compression_type="lz4", linger_ms=5, logger=None)
    application = FastStream(broker, logger=None)

    @broker.subscriber(  # type: ignore[untyped-decorator]
        loop.source,
        group_id=loop.group,
        auto_offset_reset="earliest",
        batch=True,
        max_records=loop.records,
        polling_interval=0.5,
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )
    async def handle(values: list[bytes]) -> None:
        answers = await asyncio.to_thread(loop.model.answers, values)
        await broker.publish_batch(*answers, topic=loop.sink)

    @application.after_startup  # type: ignore[untyped-decorator]
    async def started() -> None:
        announce()

    asyncio.run(application.run())


if __name__ == "__main__":
    main()
