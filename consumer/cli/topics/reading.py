"""Reads topics from the outside, without joining a group; `watch` and `demo` use it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, Message, TopicPartition

from consumer.cli.error_messages import UserError, warn
from consumer.clock import monotonic
from consumer.config.clients import consumer_config
from consumer.config.settings import ServiceSettings
from consumer.kafka.error_table import Kind, classify
from consumer.kafka.headers import headers_of
from schemas import DeadLetter, MalformedMessage, Prediction
from schemas.codecs import AnswerDecoder, AvroCodec, DependencyUnavailable, Headers

_POLL_S = 0.2
_CATCH_UP_S = 30.0
_ENDING = frozenset({Kind.UNAUTHORIZED, Kind.UNKNOWN_TOPIC})

Start = Literal["beginning", "now"]


def reader_config(settings: ServiceSettings) -> dict[str, Any]:
    """Options of a consumer that leaves no trace: it joins no group and commits nothing."""
    return consumer_config(settings) | {
        "client.id": "virnucpro-watch",
        "enable.partition.eof": True,
        "group.id": f"virnucpro-watch-{uuid.uuid4()}",  # the client insists on one; it is never joined
    }


class Reader:
    """All partitions of some topics, as they are now.

    Args:
        consumer: made with `reader_config`; closed by the caller.
        partitions: partition counts by topic.
        start: the first message that there is, or only what comes from now on.
        why: what the client knows about a failed connection.
    """

    def __init__(
        self, consumer: Consumer, partitions: Mapping[str, int], start: Start, why: Callable[[], str] = str
    ) -> None:
        self._consumer, self._why = consumer, why
        self._behind = {(topic, number) for topic, count in partitions.items() for number in range(count)}
        offset = OFFSET_BEGINNING if start == "beginning" else OFFSET_END
        consumer.assign([TopicPartition(topic, number, offset) for topic, number in sorted(self._behind)])

    @property
    def caught_up(self) -> bool:
        """Has the end of every partition been seen once? Before that, silence is only a slow connection."""
        return not self._behind

    def read(self, timeout: float) -> Message | None:
        """The next message, or None after `timeout` seconds without one.

        Raises:
            UserError: the topic cannot be read; transient errors are waited out.
        """
        message = self._consumer.poll(timeout)
        if message is None:
            return None
        error = message.error()
        if error is None:
            return message
        if error.code() == KafkaError._PARTITION_EOF:
            self._behind.discard((str(message.topic()), int(message.partition() or 0)))
            return None
        # A reader joins no group, so it needs no right to one, but librdkafka reports that it is missing.
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return None
        problem = classify(error)
        if problem.fatal or problem.kind in _ENDING:
            raise UserError(
                f"the topic cannot be read ({problem.text}){self._why()}: check its name and your rights"
            )
        return None


class Show(Protocol):
    """What is done with each message; `headers` are the message's, None when a name is not UTF-8."""

    def prediction(self, message: Message, prediction: Prediction, headers: Headers | None) -> None:
        """A prediction has come."""

    def dead_letter(self, message: Message, letter: DeadLetter, headers: Headers | None) -> None:
        """A dead letter has come."""

    def idle(self) -> None:
        """Nothing has come for a moment."""


def follow(
    reader: Reader,
    dlq_topic: str,
    show: Show,
    until_idle: float | None,
    count: int | None,
    decoder: AnswerDecoder | None = None,
) -> int:
    """Show messages until there were `count`, or none came for `until_idle` seconds; returns how many.

    What comes from `dlq_topic` is read as dead letters, all else as predictions; a message that is neither is
    reported on stderr and skipped.

    Raises:
        UserError: the topic cannot be read, or a schema registry does not answer.
    """
    decoder = decoder or AvroCodec()
    seen = 0
    silent_since = monotonic()
    while count is None or seen < count:
        caught_up = reader.caught_up
        message = reader.read(_POLL_S if until_idle is None else min(_POLL_S, until_idle))
        if message is None:
            show.idle()
            if reader.caught_up and not caught_up:
                silent_since = monotonic()
            patience = until_idle if reader.caught_up or until_idle is None else max(until_idle, _CATCH_UP_S)
            if patience is not None and monotonic() - silent_since >= patience:
                break
            continue
        silent_since = monotonic()
        data, headers = message.value(), headers_of(message)
        try:
            if message.topic() == dlq_topic:
                show.dead_letter(message, decoder.decode_dead_letter(data, headers or ()), headers)
            else:
                show.prediction(message, decoder.decode_prediction(data, headers or ()), headers)
        except DependencyUnavailable as error:
            raise UserError(f"{error}: check VIRNUCPRO_SCHEMA_REGISTRY_URL, or unset it") from error
        except MalformedMessage as error:
            place = f"{message.topic()}/{message.partition()}/{message.offset()}"
            warn(f"{place} is skipped, it cannot be read: {error.detail}")
            continue
        seen += 1
    return seen
