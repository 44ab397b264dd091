"""Records by what became of them: the viral ones as FASTA, and those without a score with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from virnucpro_core.scoring.outcomes import LeftOut, Outcome
from virnucpro_core.scoring.results import RecordResult
from virnucpro_core.scoring.tables import one_cell, write_row

REJECTED_COLUMNS = ("id", "length", "reason", "detail")
NO_OPEN_FRAME = "no_open_frame"
"""The reason for which a valid record has no score."""
_LINE_LETTERS = 80


class VirusFasta:
    """The viral records, with id, description and letters as they were read, in lines of 80 letters.

    Args:
        is_viral: whether a record is written.
    """

    def __init__(self, stream: TextIO, is_viral: Callable[[RecordResult], bool]) -> None:
        self._stream, self._is_viral = stream, is_viral

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome, LeftOut) or not self._is_viral(outcome.result):
            return
        record_id, description, letters = outcome.record
        self._stream.write(f">{record_id} {description}\n" if description else f">{record_id}\n")
        for start in range(0, len(letters), _LINE_LETTERS):
            self._stream.write(letters[start : start + _LINE_LETTERS] + "\n")

    def finish(self) -> None:
        """Every record was written."""


class Rejected:
    """A row for each record that got no score, in order, and why."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        write_row(stream, *REJECTED_COLUMNS)

    def add(self, outcome: Outcome) -> None:
        record_id, _, letters = outcome.record
        if isinstance(outcome, LeftOut):
            reason: str = outcome.reason
            detail = outcome.detail
        elif outcome.result.verdict == "no_open_frame":
            reason, detail = NO_OPEN_FRAME, "no reading frame of any chunk is free of stop codons"
        else:
            return
        write_row(self._stream, one_cell(record_id), len(letters), reason, one_cell(detail))

    def finish(self) -> None:
        """Every row was written."""
