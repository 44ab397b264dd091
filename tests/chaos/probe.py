"""What the broker says of a run, asked from outside."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.chaos.clients import client_config
from tests.chaos.reader import Place

_ANSWER_S = 10.0


class NoAnswer(Exception):
    """The broker did not answer in time."""


class Probe:
    """Offsets of topics and of the group; every method raises `NoAnswer`.

    Each request uses a new client: one that has seen the broker restart goes on asking with the leader epochs
    and the coordinator of before (librdkafka 2.16).
    """

    def __init__(self, bootstrap: str, group: str, input_topic: str) -> None:
        self._group, self._input = group, input_topic
        self._bootstrap = bootstrap

    def ends(self, places: Collection[Place]) -> dict[Place, int]:
        """The high watermark of each partition."""
        return self._latest(places, IsolationLevel.READ_UNCOMMITTED)

    def open_transactions(self, places: Collection[Place]) -> bool:
        """Whether a transaction is open that has written to one of these partitions."""
        visible = self._latest(places, IsolationLevel.READ_COMMITTED)
        return any(visible[place] < end for place, end in self.ends(places).items())

    def committed(self, partitions: Collection[int]) -> dict[int, int]:
        """The group's offset of each input partition; 0 where it has none."""
        asked = [TopicPartition(self._input, number) for number in partitions]
        unstable = {"isolation.level": "read_uncommitted"}  # else it waits for the end of open transactions
        consumer = Consumer(client_config(self._bootstrap) | {"group.id": self._group} | unstable)
        try:
            found = consumer.committed(asked, timeout=_ANSWER_S)
        except KafkaException as error:
            raise NoAnswer(str(error)) from error
        finally:
            consumer.close()
        return {tp.partition: max(0, tp.offset) for tp in found}

    def lag(self, partitions: Collection[int]) -> dict[int, int]:
        """How many records of each input partition are published and not committed."""
        if not partitions:
            return {}
        committed = self.committed(partitions)
        ends = self.ends([(self._input, number) for number in partitions])
        return {number: ends[self._input, number] - committed[number] for number in partitions}

    def _latest(self, places: Collection[Place], level: IsolationLevel) -> dict[Place, int]:
        if not places:
            return {}
        admin = AdminClient(client_config(self._bootstrap))
        asked = {TopicPartition(*place): OffsetSpec.latest() for place in places}
        answers = admin.list_offsets(asked, isolation_level=level, request_timeout=_ANSWER_S)
        return {(tp.topic, tp.partition): _result(answer).offset for tp, answer in answers.items()}


def _result(future: Future[Any]) -> Any:
    try:
        return future.result(_ANSWER_S + 1)
    except (KafkaException, TimeoutError) as error:
        raise NoAnswer(str(error)) from error
