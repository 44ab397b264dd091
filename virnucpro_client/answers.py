"""Messages of the output and dead-letter topics as answers."""

from __future__ import annotations

from dataclasses import dataclass
from operator import methodcaller

from confluent_kafka import Message

from schemas import DeadLetter, MalformedMessage, Prediction
from schemas.codecs import AnswerDecoder, DependencyUnavailable, Headers
from virnucpro_client.errors import ClientError

SOURCE_HEADER = "vnp-source"

# By methodcaller, since a call from Python leaves an error pending for names that are not UTF-8
# (consumer/kafka/headers.py).
_headers = methodcaller("headers")


@dataclass(frozen=True, slots=True)
class Answer:
    """One prediction or dead letter.

    Attributes:
        id: of the record. For a dead letter that is read without its run it is the key of the message, as this
            package and `virnucpro publish` set it, or "" without one.
        content: the message.
        source: `topic/partition/offset` of the record that is answered. Under at-least-once delivery two answers may
            have the same. Of a record in parts it is that of the first.
        headers: of the message, in their order; of a record in parts those of the part that came last.
    """

    id: str
    content: Prediction | DeadLetter
    source: str
    headers: Headers = ()


class UnreadableAnswer(ClientError):
    """A message that is not an answer of the service, or of a version that this package does not know."""


def decoded(message: Message, is_dead_letter: bool, decoder: AnswerDecoder) -> Answer:
    """The answer in a message.

    Raises:
        UnreadableAnswer: it holds none.
        ClientError: its schema cannot be looked up now.
    """
    headers, place = headers_of(message), f"{message.topic()}/{message.partition()}/{message.offset()}"
    try:
        if is_dead_letter:
            letter = decoder.decode_dead_letter(message.value(), headers)
            source = f"{letter.source_topic}/{letter.source_partition}/{letter.source_offset}"
            return Answer((letter.key or b"").decode("utf-8", "replace"), letter, source, headers)
        prediction = decoder.decode_prediction(message.value(), headers)
    except MalformedMessage as error:
        raise UnreadableAnswer(
            f"{place} cannot be read ({error.detail}): update this package, or look at who writes to the topic"
        ) from error
    except DependencyUnavailable as error:
        raise ClientError(
            f"{place} cannot be read now: {error}; try again when the registry answers"
        ) from error
    return Answer(prediction.id, prediction, source_of(prediction), headers)


def source_of(prediction: Prediction) -> str:
    """`topic/partition/offset` of the record that a prediction answers; of its first part where it came in parts."""
    stamp = prediction.provenance
    return f"{stamp.source_topic}/{stamp.source_partition}/{stamp.source_offset}"


def headers_of(message: Message) -> Headers:
    """The headers of a message; none when the name of one is not UTF-8. To be called once for each message."""
    try:
        found = _headers(message) or ()
        return tuple((name, value.encode() if isinstance(value, str) else value) for name, value in found)
    except (SystemError, UnicodeDecodeError):
        return ()
