"""Notices ids that come more than once among the records that are published."""

from __future__ import annotations

import hashlib

_SHOWN = 3


class RepeatedIds:
    """Keeps eight bytes for each id."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._first: list[str] = []
        self._records = 0

    def add(self, record_id: str) -> None:
        """One more record."""
        short = hashlib.blake2b(record_id.encode(), digest_size=8).digest()
        if short not in self._seen:
            self._seen.add(short)
            return
        self._records += 1
        if len(self._first) < _SHOWN and record_id not in self._first:
            self._first.append(record_id)

    @property
    def warning(self) -> str | None:
        """One line for people; None when every id came once."""
        if not self._records:
            return None
        shown = ", ".join(map(repr, self._first))
        return (
            f"warning: {self._records:,} records have an id that came before ({shown}): each gets an answer, and the "
            "header vnp-source tells these apart"
        )
