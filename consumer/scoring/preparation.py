"""One message from its raw bytes to tokenised frames, or to the reason why it can have no prediction."""

from __future__ import annotations

from collections.abc import Callable

from consumer.types import RawMessage, Refused
from schemas import MalformedMessage, Reason, decode_record
from virnucpro_core.sequence.prepare import PreparedRecord
from virnucpro_core.sequence.validation import InvalidSequence, validate

PrepareSequence = Callable[[str, str], PreparedRecord]
"""(record id, sequence) -> frames: `virnucpro_core.sequence.prepare.prepare` with the model's chunk size and
tokenizer."""


class Preparation:
    """Decode, check, cut, translate, tokenise. Without state: safe from any thread.

    Args:
        prepare: cuts and tokenises a valid sequence.
        max_message_bytes: a larger value is refused undecoded.
        max_sequence_bases: a longer sequence is refused.
    """

    def __init__(self, prepare: PrepareSequence, max_message_bytes: int, max_sequence_bases: int) -> None:
        self._prepare = prepare
        self._max_message_bytes, self._max_sequence_bases = max_message_bytes, max_sequence_bases

    def __call__(self, message: RawMessage) -> PreparedRecord | Refused:
        """The frames of one message, or why it is refused; it never raises for what the message holds."""
        size = len(message.value or b"")
        if size > self._max_message_bytes:
            limit = f"the value has {size} bytes, over VIRNUCPRO_MAX_MESSAGE_BYTES={self._max_message_bytes}"
            return Refused(Reason.MESSAGE_TOO_LARGE, "decode", limit)
        try:
            record = decode_record(message.value)
        except MalformedMessage as error:
            return Refused(error.reason, "decode", error.detail)
        try:
            validate(record.id, record.sequence, self._max_sequence_bases)
        except InvalidSequence as error:
            return Refused(Reason(error.kind), "validate", error.detail)
        return self._prepare(record.id, record.sequence)
