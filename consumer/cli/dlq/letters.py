"""Dead letters as they are found in their topic: decoded, counted, filtered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from consumer.cli.error_messages import UserError, warn
from consumer.cli.topics.reading import Reader
from consumer.clock import Deadline
from consumer.delivery.answers import replays_of
from consumer.kafka.headers import headers_of
from consumer.kafka.offset_map import OffsetMap
from consumer.types import Headers, NotNow, Refused
from schemas import DeadLetter, MalformedMessage, Reason, SequenceRecord
from schemas.codecs import AnswerDecoder, DependencyUnavailable

_POLL_S = 0.2
_ASK_S = 5.0
_SILENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class FoundLetter:
    """A dead letter, the message that it is in, and that message's headers."""

    message: Message
    letter: DeadLetter
    headers: Headers

    @property
    def partition(self) -> int:
        return int(self.message.partition() or 0)

    @property
    def offset(self) -> int:
        return int(self.message.offset() or 0)

    @property
    def source(self) -> str:
        """Where the message was that it stands for: topic/partition/offset."""
        letter = self.letter
        return f"{letter.source_topic}/{letter.source_partition}/{letter.source_offset}"

    @property
    def replays(self) -> int:
        """How often its record has been replayed before it came to this dead letter."""
        return replays_of(self.headers)


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters are meant; an empty part lets all through.

    Attributes:
        reasons: any of these.
        sources: any of these: `topic`, `topic/partition` or `topic/partition/offset`.
        since_ms, until_ms: when the service gave the record up, milliseconds since 1970.
    """

    reasons: frozenset[Reason] = frozenset()
    sources: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None

    def takes(self, found: FoundLetter) -> bool:
        letter = found.letter
        if self.reasons and letter.reason not in self.reasons:
            return False
        if self.sources and not any(f"{found.source}/".startswith(f"{source}/") for source in self.sources):
            return False
        if self.since_ms is not None and letter.failed_at_ms < self.since_ms:
            return False
        return self.until_ms is None or letter.failed_at_ms < self.until_ms


def letter_in(message: Message, decoder: AnswerDecoder) -> FoundLetter | None:
    """The dead letter in a message; one that holds none is reported on stderr.

    Raises:
        UserError: a schema registry does not answer.
    """
    headers = headers_of(message) or ()
    try:
        letter = decoder.decode_dead_letter(message.value(), headers)
    except DependencyUnavailable as error:
        raise UserError(f"{error}: check VIRNUCPRO_SCHEMA_REGISTRY_URL, or unset it") from error
    except MalformedMessage as error:
        place = f"{message.topic()}/{message.partition()}/{message.offset()}"
        warn(f"{place} is skipped, it is not a dead letter: {error.detail}")
        return None
    return FoundLetter(message, letter, headers)


def letters_until_the_end(reader: Reader, decoder: AnswerDecoder) -> Iterator[FoundLetter]:
    """All dead letters that there are, partition by partition in the order of their offsets.

    Raises:
        UserError: the topic cannot be read, or the broker stops answering.
    """
    deadline = Deadline.after(_SILENCE_S)
    while not reader.caught_up:
        message = reader.read(_POLL_S)
        if message is None:
            if deadline.expired:
                raise UserError(f"the broker has given nothing for {_SILENCE_S:.0f} s: is it up?")
            continue
        deadline = Deadline.after(_SILENCE_S)
        found = letter_in(message, decoder)
        if found is not None:
            yield found


def progress_of(consumer: Consumer, topic: str, partitions: int) -> dict[int, OffsetMap]:
    """Which dead letters the consumer's group has replayed, by partition.

    Raises:
        UserError: the broker does not say, or the commit is not one of `dlq replay`.
    """
    found: dict[int, OffsetMap] = {}
    deadline = Deadline.after(_SILENCE_S)
    for number in range(partitions):
        committed = _committed(consumer, TopicPartition(topic, number), deadline)
        try:
            found[number] = OffsetMap.parse(max(0, committed.offset), committed.metadata)
        except ValueError as error:
            raise UserError(
                f"the progress in partition {number} of {topic} cannot be read: {error}; name another --group, and "
                "choose by --since what it is to replay"
            ) from error
    return found


def _committed(consumer: Consumer, partition: TopicPartition, deadline: Deadline) -> TopicPartition:
    """Asked again while the broker withholds it, as it does until a transaction that was cut off has ended."""
    while True:
        try:
            (found,) = consumer.committed([partition], timeout=_ASK_S)
        except KafkaException as error:
            problem = error.args[0]
        else:
            if found.error is None:
                return found
            problem = found.error
        if deadline.expired:
            raise UserError(f"the broker does not say what was replayed ({problem.str()}): is it up?")
        consumer.poll(_POLL_S)


Decode = Callable[[FoundLetter], SequenceRecord | Refused | NotNow]
"""The record in a dead letter, as the service would take it today; or why not."""


def record_json(found: FoundLetter, decode: Decode) -> dict[str, Any] | None:
    """The record in a dead letter for JSON; None where none can be decoded."""
    if found.letter.truncated:
        return None
    record = decode(found)
    if not isinstance(record, SequenceRecord):
        return None
    return {
        "id": record.id,
        "sequence": record.sequence,
        "description": record.description,
        "metadata": dict(record.metadata),
    }


def is_replayed(found: FoundLetter, progress: Mapping[int, OffsetMap]) -> bool:
    """Whether `dlq replay` has sent it already."""
    return found.partition in progress and progress[found.partition].is_done(found.offset)
