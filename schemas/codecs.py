"""What reads and writes messages: the seam between the service and a wire format.

A codec is one class with these methods, chosen in one place (consumer/registry/service_codec.py) and handed to
preparation (`RecordDecoder`), to the answers (`AnswerEncoder`), to `publish` (`RecordEncoder`) and to `watch`
(`AnswerDecoder`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol
from uuid import UUID

from schemas import avro, json_text
from schemas.avro import SchemaId, WriterSchema
from schemas.contracts import SchemaName
from schemas.malformed import MalformedMessage
from schemas.types import DeadLetter, Prediction, Reason, SequenceRecord

Headers = tuple[tuple[str, bytes | None], ...]
"""Kafka headers in their order; a name may appear twice and a value may be null, so this is never a dict."""

VALUE_SCHEMA_ID = "__value_schema_id"
"""Confluent's header with the id of the value's schema; the value is then the bare Avro body."""
_GUID_MAGIC = b"\x01"
_GUID_BYTES, _ID_BYTES = 17, 5


class DependencyUnavailable(Exception):
    """A dependency of the codec (a schema registry) does not answer now; the same call may succeed later.

    It says nothing about the message: the record is delayed, never dead-lettered.
    """


class Encoded(NamedTuple):
    """A value as it goes to Kafka, and the headers that a reader needs to decode it (none for framed values)."""

    value: bytes
    headers: Headers = ()


class Frame(NamedTuple):
    """What names the schema of an Avro body: bytes in front of it (None: single-object encoding), or headers."""

    prefix: bytes | None
    headers: Headers = ()


SINGLE_OBJECT = Frame(None)


def confluent_frame(schema_id: int) -> Frame:
    """Confluent's framing: 0, and the id in four bytes, in front of the body."""
    return Frame(avro.confluent_prefix(schema_id))


def header_frame(guid: UUID) -> Frame:
    """Confluent's newer form: the GUID in a header, and the bare body."""
    return Frame(b"", ((VALUE_SCHEMA_ID, _GUID_MAGIC + guid.bytes),))


def header_schema_id(headers: Headers) -> SchemaId | None:
    """The schema id that the headers name; None where they name none. The last header of that name counts.

    Raises:
        MalformedMessage: the header holds neither a GUID nor an id.
    """
    held = next((value for name, value in reversed(headers) if name == VALUE_SCHEMA_ID), None)
    if held is None:
        return None
    if len(held) == _GUID_BYTES and held[:1] == _GUID_MAGIC:
        return UUID(bytes=held[1:])
    if len(held) == _ID_BYTES and held[0] == avro.CONFLUENT_MAGIC:
        return int.from_bytes(held[1:], "big")
    raise MalformedMessage(
        Reason.MALFORMED,
        f"the header {VALUE_SCHEMA_ID} holds {len(held)} bytes, neither 01 and a GUID nor 00 and an id",
    )


class RecordDecoder(Protocol):
    """Decodes input messages. Called from several threads at once."""

    def decode_record(self, value: bytes | None, headers: Headers) -> SequenceRecord:
        """Decode the value of an input message.

        Raises:
            MalformedMessage: the message can never be decoded; the exception has the reason.
            DependencyUnavailable: it cannot be decoded now.
        """


class RecordEncoder(Protocol):
    """Encodes input messages."""

    def encode_record(self, record: SequenceRecord) -> Encoded:
        """The value of an input message; raises ValueError or TypeError for what the format cannot carry."""


class AnswerEncoder(Protocol):
    """Encodes predictions and dead letters. Called from the thread that owns the Kafka clients."""

    def encode_prediction(self, prediction: Prediction) -> Encoded:
        """The value of an output message."""

    def encode_dead_letter(self, letter: DeadLetter) -> Encoded:
        """The value of a message to the dead-letter topic."""


class AnswerDecoder(Protocol):
    """Decodes predictions and dead letters; errors as those of `RecordDecoder`."""

    def decode_prediction(self, value: bytes | None, headers: Headers) -> Prediction:
        """Decode the value of an output message."""

    def decode_dead_letter(self, value: bytes | None, headers: Headers) -> DeadLetter:
        """Decode the value of a message of the dead-letter topic."""


class Codec(RecordDecoder, AnswerEncoder, Protocol):
    """Reads the input and writes the output of one service."""


class Decoder(RecordDecoder, AnswerDecoder, Protocol):
    """Reads every message of the contract."""


class Encoder(RecordEncoder, AnswerEncoder, Protocol):
    """Writes every message of the contract."""


class AvroCodec:
    """Avro in every framing in, one framing for each kind of message out (schemas/avro.py).

    Args:
        writer_schema: resolves the ids of Confluent's framings; without one the current schema is taken for each id.
        frames: the framing out; single-object encoding where a message has none.
    """

    def __init__(
        self,
        writer_schema: WriterSchema | None = None,
        frames: Mapping[SchemaName, Frame] = MappingProxyType({}),
    ) -> None:
        self._writer_schema, self._frames = writer_schema, frames

    def decode_record(self, value: bytes | None, headers: Headers) -> SequenceRecord:
        return avro.decode_record(value, self._writer_schema, header_schema_id(headers))

    def decode_prediction(self, value: bytes | None, headers: Headers) -> Prediction:
        return avro.decode_prediction(value, self._writer_schema, header_schema_id(headers))

    def decode_dead_letter(self, value: bytes | None, headers: Headers) -> DeadLetter:
        return avro.decode_dead_letter(value, self._writer_schema, header_schema_id(headers))

    def encode_record(self, record: SequenceRecord) -> Encoded:
        frame = self._frames.get("sequence_record", SINGLE_OBJECT)
        return Encoded(avro.encode_record(record, frame.prefix), frame.headers)

    def encode_prediction(self, prediction: Prediction) -> Encoded:
        frame = self._frames.get("prediction", SINGLE_OBJECT)
        return Encoded(avro.encode_prediction(prediction, frame.prefix), frame.headers)

    def encode_dead_letter(self, letter: DeadLetter) -> Encoded:
        frame = self._frames.get("dead_letter", SINGLE_OBJECT)
        return Encoded(avro.encode_dead_letter(letter, frame.prefix), frame.headers)


class JsonCodec:
    """JSON in, JSON out (schemas/json_text.py); headers say nothing about it."""

    def decode_record(self, value: bytes | None, headers: Headers) -> SequenceRecord:
        return json_text.decode_record(value)

    def decode_prediction(self, value: bytes | None, headers: Headers) -> Prediction:
        return json_text.decode_prediction(value)

    def decode_dead_letter(self, value: bytes | None, headers: Headers) -> DeadLetter:
        return json_text.decode_dead_letter(value)

    def encode_record(self, record: SequenceRecord) -> Encoded:
        return Encoded(json_text.encode_record(record))

    def encode_prediction(self, prediction: Prediction) -> Encoded:
        return Encoded(json_text.encode_prediction(prediction))

    def encode_dead_letter(self, letter: DeadLetter) -> Encoded:
        return Encoded(json_text.encode_dead_letter(letter))


class EitherDecoder:
    """Avro or JSON, as each message shows: a value that begins like a JSON object, without a schema id, is JSON."""

    def __init__(self, avro_decoder: Decoder, json_decoder: Decoder) -> None:
        self._avro, self._json = avro_decoder, json_decoder

    def decode_record(self, value: bytes | None, headers: Headers) -> SequenceRecord:
        return self._for(value, headers).decode_record(value, headers)

    def decode_prediction(self, value: bytes | None, headers: Headers) -> Prediction:
        return self._for(value, headers).decode_prediction(value, headers)

    def decode_dead_letter(self, value: bytes | None, headers: Headers) -> DeadLetter:
        return self._for(value, headers).decode_dead_letter(value, headers)

    def _for(self, value: bytes | None, headers: Headers) -> Decoder:
        is_json = value is not None and header_schema_id(headers) is None and json_text.looks_like_json(value)
        return self._json if is_json else self._avro


class TwoFormatCodec:
    """Reads by one codec and writes by another."""

    def __init__(self, decoder: RecordDecoder, encoder: Encoder) -> None:
        self._decoder, self._encoder = decoder, encoder

    def decode_record(self, value: bytes | None, headers: Headers) -> SequenceRecord:
        return self._decoder.decode_record(value, headers)

    def encode_prediction(self, prediction: Prediction) -> Encoded:
        return self._encoder.encode_prediction(prediction)

    def encode_dead_letter(self, letter: DeadLetter) -> Encoded:
        return self._encoder.encode_dead_letter(letter)
