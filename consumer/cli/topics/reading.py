"""Reads topics from the outside, without joining a group; `watch` and `demo` use it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from consumer.cli.error_messages import UserError, warn
from consumer.clock import monotonic
from consumer.config.clients import consumer_config
from consumer.config.settings import ServiceSettings
from consumer.kafka.error_table import Kind, classify
from consumer.kafka.headers import headers_of
from schemas import DeadLetter, MalformedMessage, Prediction
from schemas.codecs import AnswerDecoder, AvroCodec, DependencyUnavailable, Headers
from virnucpro_client.joining import Joiner
from virnucpro_client.parts import part_of

_POLL_S = 0.2
_ASK_S = 10.0
_CATCH_UP_S = 30.0
_ENDING = frozenset({Kind.UNAUTHORIZED, Kind.UNKNOWN_TOPIC})

Start = Literal["beginning", "now"] | Mapping[tuple[str, int], int]
"""Where to begin: the first message that there is, what comes from now on, or an offset for each partition."""


def reader_config(settings: ServiceSettings) -> dict[str, Any]:
    """Options of a consumer that leaves no trace: it joins no group and commits nothing."""
    return consumer_config(settings) | {
        "client.id": "virnucpro-watch",
        "enable.partition.eof": True,
        "group.id": f"virnucpro-watch-{uuid.uuid4()}",  # the client insists on one; it is never joined
    }


def ends_now(consumer: Consumer, partitions: Mapping[str, int]) -> dict[tuple[str, int], int]:
    """One past the last message of each partition, by topic and partition.

    Raises:
        UserError: the broker does not say.
    """
    try:
        return {
            (topic, number): consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_ASK_S)[1]
            for topic, count in partitions.items()
            for number in range(count)
        }
    except KafkaException as error:
        raise UserError(
            f"the broker does not say where a topic ends ({error.args[0].str()}): is it up?"
        ) from error


def offsets_since(
    consumer: Consumer, partitions: Mapping[str, int], since_ms: int, embedded: bool
) -> dict[tuple[str, int], int]:
    """The first message of each partition whose timestamp is at least `since_ms`; its end where there is none.

    Args:
        embedded: such a broker knows no times; all is read from the beginning.

    Raises:
        UserError: the broker does not say.
    """
    places = [(topic, number) for topic, count in partitions.items() for number in range(count)]
    if embedded:
        return dict.fromkeys(places, OFFSET_BEGINNING)
    try:
        found = consumer.offsets_for_times(
            [TopicPartition(*place, since_ms) for place in places], timeout=_ASK_S
        )
    except KafkaException as error:
        raise UserError(f"the broker does not find a time ({error.args[0].str()}): is it up?") from error
    return {(each.topic, each.partition): each.offset if each.offset >= 0 else OFFSET_END for each in found}


class Reader:
    """All partitions of some topics, as they are now.

    Args:
        consumer: made with `reader_config`; closed by the caller.
        partitions: partition counts by topic.
        start: where to begin.
        why: what the client knows about a failed connection.
    """

    def __init__(
        self, consumer: Consumer, partitions: Mapping[str, int], start: Start, why: Callable[[], str] = str
    ) -> None:
        self._consumer, self._why = consumer, why
        self._behind = {(topic, number) for topic, count in partitions.items() for number in range(count)}
        if not isinstance(start, Mapping):
            start = dict.fromkeys(self._behind, OFFSET_BEGINNING if start == "beginning" else OFFSET_END)
        consumer.assign([TopicPartition(*place, start[place]) for place in sorted(self._behind)])

    @property
    def caught_up(self) -> bool:
        """Has the end of every partition been seen once? Before that, silence is only a slow connection."""
        return not self._behind

    def leave(self, topic: str, partition: int) -> None:
        """Read no more of a partition, and take it for caught up."""
        self._behind.discard((topic, partition))
        self._consumer.pause([TopicPartition(topic, partition)])

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


@dataclass(frozen=True, slots=True)
class Stop:
    """When reading ends; by none of these it goes on.

    Attributes:
        until_idle: nothing came for so many seconds, after the end of every partition was seen.
        count: so many messages were shown.
        at_the_end: the end of every partition was seen.
    """

    until_idle: float | None = None
    count: int | None = None
    at_the_end: bool = False


Wanted = Callable[[Message, Prediction | DeadLetter], bool]
"""Whether a message is shown."""


def follow(
    reader: Reader,
    dlq_topic: str,
    show: Show,
    stop: Stop,
    decoder: AnswerDecoder | None = None,
    wanted: Wanted = lambda _message, _answer: True,
    joining: Joining | None = None,
) -> int:
    """Show messages until it is time to stop; returns how many.

    What comes from `dlq_topic` is read as dead letters, all else as predictions; a message that is neither is
    reported on stderr and skipped.

    Args:
        joining: the predictions of parts are shown joined, with the message of the last one; None: each as it is.

    Raises:
        UserError: the topic cannot be read, or a schema registry does not answer.
    """
    decoder = decoder or AvroCodec()
    seen = 0
    until_idle = stop.until_idle
    silent_since = monotonic()
    while stop.count is None or seen < stop.count:
        caught_up = reader.caught_up
        if stop.at_the_end and caught_up:
            break
        message = reader.read(_POLL_S if until_idle is None else min(_POLL_S, until_idle))
        if joining is not None:
            joining.name_given_up()
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
        letter: DeadLetter | None = None
        prediction: Prediction | None = None
        try:
            if message.topic() == dlq_topic:
                letter = decoder.decode_dead_letter(data, headers or ())
            else:
                prediction = decoder.decode_prediction(data, headers or ())
        except DependencyUnavailable as error:
            raise UserError(f"{error}: check VIRNUCPRO_SCHEMA_REGISTRY_URL, or unset it") from error
        except MalformedMessage as error:
            place = f"{message.topic()}/{message.partition()}/{message.offset()}"
            warn(f"{place} is skipped, it cannot be read: {error.detail}")
            continue
        if joining is not None:
            prediction = joining.whole(prediction, letter, headers or ())
        if letter is not None and wanted(message, letter):
            show.dead_letter(message, letter, headers)
        elif prediction is not None and wanted(message, prediction):
            show.prediction(message, prediction, headers)
        else:
            continue
        seen += 1
    return seen


class Joining:
    """Joins the predictions of records that were published in parts, and names those that stay incomplete on stderr.

    Args:
        within_s: a record is given up when no part of it has come for so long, in seconds.
    """

    def __init__(self, within_s: float) -> None:
        self._joiner = Joiner(within_s)
        self.incomplete = 0

    def whole(
        self, prediction: Prediction | None, letter: DeadLetter | None, headers: Headers
    ) -> Prediction | None:
        """The prediction to show for what has come: its own, that of the whole record, or None."""
        part = part_of(headers)
        if part is None:
            return prediction
        if letter is not None:
            name = (letter.key or b"").decode(errors="replace")
            self._joiner.dead_letter(part, name, f"dead letter, {letter.reason.value}")
        return None if prediction is None else self._joiner.add(part, prediction)

    def name_given_up(self, at_the_end: bool = False) -> None:
        """Name the records that are incomplete: those that were given up, at the end all."""
        for each in self._joiner.given_up(at_the_end):
            self.incomplete += 1
            warn(f"record {each.record_id!r} has no prediction: {each.why}")
