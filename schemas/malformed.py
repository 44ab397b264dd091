"""The one error of decoding, whatever the format."""

from __future__ import annotations

from schemas.types import Reason

_DETAIL_LETTERS = 300


class MalformedMessage(ValueError):
    """A message that can never be decoded.

    ``reason`` is null_value, malformed, unknown_schema or message_too_large; ``detail`` one bounded line for people.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        # Parts of it may come from outside: a schema's text, a name in a message.
        detail = " ".join(detail.split())
        self.detail = detail if len(detail) <= _DETAIL_LETTERS else detail[: _DETAIL_LETTERS - 1] + "…"
        super().__init__(f"{reason.value}: {self.detail}")
