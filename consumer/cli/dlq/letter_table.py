"""Dead letters as rows for people, and as JSON lines."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.text import Text

from consumer.cli.dlq.letters import Decode, FoundLetter, record_json
from consumer.cli.output.json_lines import dead_letter_json
from consumer.cli.output.table import Column, Rows
from consumer.cli.topics.times import shown_time
from consumer.escaping import escaped
from schemas import SequenceRecord

COLUMNS: tuple[Column, ...] = (
    ("given up at (UTC)", 19, "left"),
    ("reason", 20, "left"),
    ("source", 24, "left"),
    ("record", 32, "left"),
    ("length", 9, "right"),
    ("replays", 7, "right"),
    ("detail", 40, "left"),
)
CLOSED = "replayed"


def letter_json(found: FoundLetter, decode: Decode, replayed: bool) -> dict[str, Any]:
    """A dead letter with the record that it holds, where that can be decoded, and what replays have done with it."""
    return dead_letter_json(found.message, found.letter, found.headers) | {
        "record": record_json(found, decode),
        "replays": found.replays,
        "replayed": replayed,
    }


class LetterTable:
    """A row for each dead letter; `summary` counts them."""

    def __init__(self, console: Console, decode: Decode) -> None:
        self._rows, self._decode = Rows(console, COLUMNS), decode
        self._reasons: Counter[str] = Counter()
        self._replayed = 0

    def __enter__(self) -> LetterTable:
        self._rows.__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:
        self._rows.__exit__(*ended)

    def add(self, found: FoundLetter, replayed: bool, shown: bool) -> None:
        """Count a dead letter, and show its row."""
        self._reasons[found.letter.reason.value] += 1
        self._replayed += replayed
        if not shown:
            return
        letter = found.letter
        record = None if letter.truncated else self._decode(found)
        if isinstance(record, SequenceRecord):
            name, length = record.id, f"{len(record.sequence):,}"
        else:
            name, length = (letter.key or b"").decode(errors="replace"), ""
        self._rows.add(
            [
                Text(shown_time(letter.failed_at_ms)),
                Text(letter.reason.value, "red"),
                Text(escaped(found.source), "dim"),
                Text(escaped(name)),
                Text(length),
                Text(CLOSED if replayed else str(found.replays or "")),
                Text(escaped(letter.detail)),
            ]
        )

    @property
    def summary(self) -> str:
        """How many there are, by reason."""
        parts = [f"{self._reasons.total():,} dead letters"]
        parts += [f"{count:,} {reason}" for reason, count in self._reasons.most_common()]
        return ", ".join(parts) + (f"; {self._replayed:,} of them replayed" if self._replayed else "")
