"""The client that asks about topics; another takes its place when no broker has answered it for long.

librdkafka drops brokers that are missing from an answer. One that a broker gives when it has just come back may name
none: a client that has dropped its last broker, the configured ones too, never connects again (seen with 2.16.0 when a
broker was frozen past its session and thawed; `metadata.recovery.strategy=none` takes no part in the dropping). Results
wait for the answers of this client (`topic_ids.py`), so the service would stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import structlog
from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from consumer.clock import Clock, monotonic

log = structlog.get_logger(__name__)

SILENT_S = 15.0
"""Longer than a broker takes to start, or a cluster to choose another leader."""


class RenewableAdmin:
    """What the running service uses of `confluent_kafka.admin.AdminClient`, by the client in use. For one thread.

    Args:
        client: the first one.
        make: gives a new client.
    """

    def __init__(
        self, client: AdminClient, make: Callable[[], AdminClient], clock: Clock = monotonic
    ) -> None:
        self._client, self._make, self._clock = client, make, clock
        self._silent_since: float | None = None

    def poll(self, timeout: float) -> int:
        return self._client.poll(timeout)

    def list_topics(self, *topic: str, timeout: float) -> Any:
        return self._client.list_topics(*topic, timeout=timeout)

    def list_offsets(
        self, partitions: dict[TopicPartition, OffsetSpec], request_timeout: float
    ) -> Mapping[TopicPartition, Future[Any]]:
        return self._client.list_offsets(partitions, request_timeout=request_timeout)

    def describe_topics(self, topics: TopicCollection, request_timeout: float) -> Mapping[str, Future[Any]]:
        """As the client's, or a new client's if no broker has answered these questions for `SILENT_S`.

        The answers to the question before are never given then: it must be done.
        """
        now = self._clock()
        if self._silent_since is not None and now >= self._silent_since + SILENT_S:
            log.warning("admin_client_replaced", silent_s=round(now - self._silent_since, 1))
            self._client, self._silent_since = self._make(), None
        answers: Mapping[str, Future[Any]] = self._client.describe_topics(
            topics, request_timeout=request_timeout
        )
        for answer in answers.values():
            answer.add_done_callback(partial(self._answered, now))
        return answers

    def _answered(self, asked_at: float, answer: Future[Any]) -> None:
        """Runs on the client's thread. Error codes below 0 are the client's own, the others a broker's."""
        error = answer.exception()
        if isinstance(error, KafkaException) and error.args[0].code() < 0:
            if self._silent_since is None:
                self._silent_since = asked_at
        else:
            self._silent_since = None
