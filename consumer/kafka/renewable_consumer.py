"""A consumer whose client can be replaced by a new one, in the same group and for the same topic.

librdkafka keeps the leader epoch of a partition for as long as the client lives. Where a topic is deleted and created
again, and the epoch of the new partition is lower, the client takes every word of its leader for outdated and never
reads it (seen with 2.16.0 on several brokers; on one broker epochs begin at 0 and stay there). A new client reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition


class RenewableConsumer:
    """What the service uses of `confluent_kafka.Consumer`, by the client in use. For one thread.

    Args:
        make: gives a new client.
    """

    def __init__(self, make: Callable[[], Consumer]) -> None:
        self._make = make
        self._client = make()
        self._topics: list[str] = []
        self._callbacks: dict[str, Callable[[Consumer, list[TopicPartition]], None]] = {}

    def renew(self) -> None:
        """Leave the group, and join it with a new client; not to be called from a callback of the client.

        The callback `on_revoke` is called with what is assigned, as it is at any end.
        """
        self._client.close()
        self._client = self._make()
        self._client.subscribe(self._topics, **self._callbacks)

    def subscribe(
        self, topics: list[str], **callbacks: Callable[[Consumer, list[TopicPartition]], None]
    ) -> None:
        """As the client's; also of each client to come. Callbacks get the client that calls them."""
        self._topics, self._callbacks = topics, callbacks
        self._client.subscribe(topics, **callbacks)

    def poll(self, timeout: float) -> Message | None:
        return self._client.poll(timeout)

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._client.pause(partitions)

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._client.resume(partitions)

    def seek(self, partition: TopicPartition) -> None:
        self._client.seek(partition)

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return self._client.position(partitions)

    def get_watermark_offsets(self, partition: TopicPartition, *, cached: bool) -> tuple[int, int] | None:
        return self._client.get_watermark_offsets(partition, cached=cached)

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> Any:
        if asynchronous:
            return self._client.commit(offsets=offsets, asynchronous=True)
        return self._client.commit(offsets=offsets, asynchronous=False)

    def consumer_group_metadata(self) -> object:
        return self._client.consumer_group_metadata()

    def close(self) -> None:
        self._client.close()


AnyConsumer = Consumer | RenewableConsumer
