"""Reads answers of the partitions of some topics, from given offsets on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from schemas.codecs import AnswerDecoder
from virnucpro_client.answers import Answer, UnreadableAnswer, decoded
from virnucpro_client.connection import ANSWER_S, Connection
from virnucpro_client.errors import BrokerUnavailable

_POLL_S = 0.2
_LOOK_S = 10.0
"""How often the topics are looked at for new partitions."""
_LOOK_ANSWER_S = 1.0
_ENDING = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
_LOG = logging.getLogger("virnucpro_client")

Offsets = Mapping[tuple[str, int], int]
"""(topic, partition) -> offset."""


class AnswerReader:
    """Reads all partitions of the topics in `starts`, those that are added later from their beginning.

    A message that is not an answer is skipped with a warning of the logger `virnucpro_client`; `skipped` counts them.

    Args:
        consumer: used by this object alone; closed by the caller.
        starts: where to begin.
        dead_letters: the topic of which the messages are dead letters.
    """

    def __init__(
        self,
        consumer: Consumer,
        connection: Connection,
        starts: Offsets,
        dead_letters: str,
        decoder: AnswerDecoder,
    ) -> None:
        self._consumer, self._connection, self._decoder = consumer, connection, decoder
        self._dead_letters = dead_letters
        self._known = set(starts)
        self._looked_at = time.monotonic()
        self.skipped = 0
        consumer.assign([TopicPartition(*place, offset) for place, offset in sorted(starts.items())])

    def until(self, deadline: float) -> Iterator[Answer]:
        """Answers as they come, until the monotonic clock shows `deadline`.

        Raises:
            BrokerUnavailable: a topic cannot be read any more. Transient errors are waited out.
            ClientError: a schema registry does not answer.
        """
        while (left := deadline - time.monotonic()) > 0:
            answer = self._next(min(left, _POLL_S))
            if answer is not None:
                yield answer

    def next_within(self, seconds: float) -> Answer | None:
        """The next answer; None when none has come within that time. Errors as in `until`."""
        return next(self.until(time.monotonic() + seconds), None)

    def _next(self, timeout: float) -> Answer | None:
        if time.monotonic() - self._looked_at >= _LOOK_S:
            self._take_new_partitions()
        message = self._consumer.poll(timeout)
        if message is None:
            return None
        error = message.error()
        if error is not None:
            if error.fatal() or error.code() in _ENDING:
                raise BrokerUnavailable(
                    f"the topic {message.topic()} cannot be read ({error.str()}): check its name and your rights"
                )
            return None
        try:
            return decoded(message, message.topic() == self._dead_letters, self._decoder)
        except UnreadableAnswer as reason:
            self.skipped += 1
            _LOG.warning("%s", reason)
            return None

    def _take_new_partitions(self) -> None:
        self._looked_at = time.monotonic()
        try:
            now = {
                (topic, number)
                for topic in {topic for topic, _ in self._known}
                for number in self._connection.partitions(self._consumer, topic, _LOOK_ANSWER_S)
            }
            if new := sorted(now - self._known):
                self._consumer.incremental_assign([TopicPartition(*place, OFFSET_BEGINNING) for place in new])
        except BrokerUnavailable as reason:
            _LOG.warning("new partitions are looked for again later: %s", reason)
            return
        self._known |= now


def ends(consumer: Consumer, connection: Connection, topics: tuple[str, ...]) -> dict[tuple[str, int], int]:
    """Where the next message of each partition will be.

    Raises:
        BrokerUnavailable: no broker answers, or the topic does not exist.
    """
    deadline = time.monotonic() + ANSWER_S
    return {
        (topic, number): _end(consumer, connection, TopicPartition(topic, number), deadline)
        for topic in topics
        for number in connection.partitions(consumer, topic)
    }


def _end(consumer: Consumer, connection: Connection, partition: TopicPartition, deadline: float) -> int:
    """Asked again until the deadline: a partition that is new, or whose broker has gone, has no leader for a moment."""
    while True:
        left = max(_POLL_S, deadline - time.monotonic())
        try:
            return consumer.get_watermark_offsets(partition, timeout=left)[1]
        except KafkaException as error:
            if time.monotonic() >= deadline:
                raise connection.unavailable(error) from error
        consumer.poll(_POLL_S)
