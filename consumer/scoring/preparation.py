"""One message from its raw bytes to tokenised frames, or to the reason why it has no prediction."""

from __future__ import annotations

from collections.abc import Callable

from consumer.types import Headers, NotNow, RawMessage, Refused
from schemas import MalformedMessage, Reason, SequenceRecord
from schemas.codecs import DependencyUnavailable, RecordDecoder
from virnucpro_core.scoring.model import PrepareSequence
from virnucpro_core.sequence.prepare import PreparedRecord
from virnucpro_core.sequence.validation import InvalidSequence, validate


def read_record(
    decoder: RecordDecoder,
    value: bytes | None,
    headers: Headers,
    max_message_bytes: int,
    max_sequence_bases: int,
) -> SequenceRecord | Refused | NotNow:
    """A record that the model can score, why the message holds none, or why that cannot be told now.

    Args:
        decoder: reads the value.
        max_message_bytes: a larger value is refused undecoded.
        max_sequence_bases: a longer sequence is refused.
    """
    size = len(value or b"")
    if size > max_message_bytes:
        limit = f"the value has {size} bytes, over VIRNUCPRO_MAX_MESSAGE_BYTES={max_message_bytes}"
        return Refused(Reason.MESSAGE_TOO_LARGE, "decode", limit)
    try:
        record = decoder.decode_record(value, headers)
    except MalformedMessage as error:
        return Refused(error.reason, "decode", error.detail)
    except DependencyUnavailable as error:
        return NotNow(" ".join(str(error).split()))
    try:
        validate(record.id, record.sequence, max_sequence_bases)
    except InvalidSequence as error:
        return Refused(Reason(error.kind), "validate", error.detail)
    return record


class Preparation:
    """Decode, check, cut, translate, tokenise. Without state: safe from any thread.

    Args:
        decoder: reads the value of a message.
        prepare: splits and tokenises a valid sequence.
        max_message_bytes: a larger value is refused undecoded.
        max_sequence_bases: a longer sequence is refused.
        on_rna: called for each valid record that holds a U, on any thread.
    """

    def __init__(
        self,
        decoder: RecordDecoder,
        prepare: PrepareSequence,
        max_message_bytes: int,
        max_sequence_bases: int,
        on_rna: Callable[[], None] = lambda: None,
    ) -> None:
        self._decoder, self._prepare, self._on_rna = decoder, prepare, on_rna
        self._max_message_bytes, self._max_sequence_bases = max_message_bytes, max_sequence_bases

    def __call__(self, message: RawMessage) -> PreparedRecord | Refused | NotNow:
        """The frames of one message, why it is refused, or why it has to wait.

        It never raises for what the message holds, nor for a dependency that does not answer.
        """
        record = read_record(
            self._decoder, message.value, message.headers, self._max_message_bytes, self._max_sequence_bases
        )
        if not isinstance(record, SequenceRecord):
            return record
        prepared = self._prepare(record.id, record.sequence)
        if prepared.rna:
            self._on_rna()
        return prepared
