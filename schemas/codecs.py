"""What reads records and writes answers: the seam between the service and a wire format.

`AvroCodec` is what the service uses. Another format (JSON, a schema registry) is another class with these methods,
chosen in one place and handed to preparation (`RecordDecoder`) and to the answers (`AnswerEncoder`).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from schemas.avro import decode_record, encode_dead_letter, encode_prediction
from schemas.types import DeadLetter, Prediction, SequenceRecord

Headers = tuple[tuple[str, bytes | None], ...]
"""Kafka headers in their order; a name may appear twice and a value may be null, so this is never a dict."""


class DependencyUnavailable(Exception):
    """A dependency of the codec (a schema registry) does not answer now; the same call may succeed later.

    It says nothing about the message: the record is delayed, never dead-lettered.
    """


class Encoded(NamedTuple):
    """A value as it goes to Kafka, and the headers that a reader needs to decode it (none for framed values)."""

    value: bytes
    headers: Headers = ()


class RecordDecoder(Protocol):
    """Decodes input messages. Called from several threads at once."""

    def decode_record(self, value: bytes | None, headers: Headers) -> SequenceRecord:
        """Decode the value of an input message.

        Raises:
            MalformedMessage: the message can never be decoded; the exception has the reason.
            DependencyUnavailable: it cannot be decoded now.
        """


class AnswerEncoder(Protocol):
    """Encodes predictions and dead letters. Called from the thread that owns the Kafka clients."""

    def encode_prediction(self, prediction: Prediction) -> Encoded:
        """The value of an output message."""

    def encode_dead_letter(self, letter: DeadLetter) -> Encoded:
        """The value of a message to the dead-letter topic."""


class Codec(RecordDecoder, AnswerEncoder, Protocol):
    """Reads the input and writes the output of one service."""


class AvroCodec:
    """Avro in single-object encoding out; that or Confluent framing in (schemas/avro.py)."""

    def decode_record(self, value: bytes | None, headers: Headers) -> SequenceRecord:
        return decode_record(value)

    def encode_prediction(self, prediction: Prediction) -> Encoded:
        return Encoded(encode_prediction(prediction))

    def encode_dead_letter(self, letter: DeadLetter) -> Encoded:
        return Encoded(encode_dead_letter(letter))
