"""The demo's table: each prediction next to its sequence's known label, and how many are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from confluent_kafka import Message
from rich.text import Text

from consumer.cli.demo.sample import Truth
from consumer.cli.error_messages import UserError
from consumer.cli.output.table import Column, Rows, prediction_cells
from consumer.types import Headers
from schemas import DeadLetter, Prediction, Verdict
from virnucpro_core.scoring.verdicts import CLASSES

COLUMNS: tuple[Column, ...] = (
    ("record", 29, "left"),
    ("length", 6, "right"),
    ("verdict", 7, "left"),
    ("score", 5, "right"),
    ("chunks", 8, "right"),
    ("known truth", 15, "left"),
    ("contig rule", 11, "left"),
    ("organism", 20, "left"),
)


class Scoreboard:
    """Shows predictions and counts them. A record that is answered twice, as at_least_once allows, counts once.

    Args:
        truth: what each record is, by id.
        rows: where to show them; made with `COLUMNS`.
    """

    def __init__(self, truth: Mapping[str, Truth], rows: Rows) -> None:
        self._truth, self._rows = truth, rows
        self._right: Counter[str] = Counter()
        self._called: Counter[str] = Counter()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._answered: set[str] = set()
        self.idle()

    @property
    def complete(self) -> bool:
        """Whether every record has been answered."""
        return len(self._answered) == len(self._truth)

    def prediction(self, _: Message, prediction: Prediction, _headers: Headers | None) -> None:
        """Show one and compare it; a sequence without an open frame is neither right nor wrong."""
        if prediction.id in self._answered:
            return
        self._answered.add(prediction.id)
        truth = self._truth[prediction.id]
        record, length, verdict, call, score, chunks = prediction_cells(prediction)
        if prediction.verdict is Verdict.NO_OPEN_FRAME:
            verdict, mark = Text("-"), Text(f"{truth.label}, not seen", "dim")
        else:
            right = prediction.verdict == truth.label
            self._called[truth.label] += 1
            self._right[truth.label] += right
            self._calls[truth.label, prediction.call or ""] += 1
            mark = Text(f"{truth.label}, {'right' if right else 'wrong'}", "green" if right else "red")
        self._rows.add([record, length, verdict, score, chunks, mark, call, Text(truth.organism, "dim")])
        self.idle()

    def dead_letter(self, _: Message, letter: DeadLetter, _headers: Headers | None) -> None:
        """Not one of the sample may be refused."""
        raise UserError(f"a record of the sample was refused ({letter.reason.value}: {letter.detail})")

    def idle(self) -> None:
        """Show how far it is."""
        self._rows.status(f"{len(self._answered)} of {len(self._truth)} records")

    def summary(self) -> list[str]:
        """`Right: 36 of 39 (virus 18 of 19, others 18 of 20).`, and what the other records are."""
        each = ", ".join(
            f"{label} {self._right[label]} of {self._called[label]}" for label in reversed(CLASSES)
        )
        lines = [f"Right: {self._right.total()} of {self._called.total()} ({each})."]
        lines.append(
            f"By the contig rule: {self._of_calls('virus', 'Viral')}; {self._of_calls('others', 'Non-viral')}."
        )
        if unseen := len(self._answered) - self._called.total():
            lines.append(
                f"Not seen: {unseen} without any open reading frame, so that nothing could be scored."
            )
        return lines

    def _of_calls(self, label: str, right: str) -> str:
        """`virus 15 of 19 Viral, 4 Ambiguous`"""
        called, unsure = self._calls[label, right], self._calls[label, "Ambiguous"]
        return f"{label} {called} of {self._called[label]} {right}, {unsure} Ambiguous"
