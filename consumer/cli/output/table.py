"""Predictions as rows for people: an aligned table that grows while they arrive, and a line that counts.

Rows scroll and stay; on a terminal they are coloured and the counting line moves with them, elsewhere the
same rows are plain text.
"""

from __future__ import annotations

from types import TracebackType
from typing import Literal

from confluent_kafka import Message
from rich.console import Console
from rich.live import Live
from rich.text import Text

from consumer.cli.output.answer_tally import AnswerTally
from consumer.escaping import escaped
from consumer.types import Headers
from schemas import DeadLetter, Prediction, Verdict

Column = tuple[str, int, Literal["left", "right"]]
"""heading, width in letters, justification"""

PREDICTION_COLUMNS: tuple[Column, ...] = (
    ("record", 32, "left"),
    ("length", 9, "right"),
    ("verdict", 13, "left"),
    ("call", 9, "left"),
    ("score", 6, "right"),
    ("viral chunks", 12, "right"),
)
_STYLES = {Verdict.VIRUS: "bold magenta", Verdict.OTHERS: "cyan", Verdict.NO_OPEN_FRAME: "dim"}
_CALL_STYLES = {"Viral": "magenta", "Non-viral": "cyan"}
_GAP = "  "


def score_of(prediction: Prediction) -> float | None:
    """The highest score of the class that the record was called; None without an open frame."""
    return prediction.virus_score if prediction.verdict is Verdict.VIRUS else prediction.others_score


def prediction_cells(prediction: Prediction) -> list[Text]:
    """The cells that go with `PREDICTION_COLUMNS`."""
    score = score_of(prediction)
    viral = sum(chunk.verdict is Verdict.VIRUS for chunk in prediction.chunks)
    return [
        Text(escaped(prediction.id)),
        Text(f"{prediction.length:,}"),
        Text(prediction.verdict.replace("_", " "), _STYLES[prediction.verdict]),
        Text(escaped(prediction.call or ""), _CALL_STYLES.get(prediction.call or "", "dim")),
        Text("" if score is None else f"{score:.3f}"),
        Text(f"{viral} of {len(prediction.chunks)}"),
    ]


class Rows:
    """A table of rows that are printed one by one.

    Args:
        console: where to; a terminal's width cuts the rows.
        columns: long text is cut to its width, numbers and the last column are not.
    """

    def __init__(self, console: Console, columns: tuple[Column, ...]) -> None:
        self._console, self._columns = console, columns
        self._live = (
            Live(console=console, transient=True, refresh_per_second=8) if console.is_terminal else None
        )

    def __enter__(self) -> Rows:
        self._print([Text(heading, "bold") for heading, _, _ in self._columns])
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def add(self, cells: list[Text]) -> None:
        """Print one row."""
        self._print(cells)

    def status(self, text: str) -> None:
        """Replace the line below the table; does nothing without a terminal."""
        if self._live is not None:
            self._live.update(Text(text, "dim"))

    def _print(self, cells: list[Text]) -> None:
        line = Text()
        last = len(cells) - 1
        for number, (cell, (_, width, justify)) in enumerate(zip(cells, self._columns, strict=True)):
            if justify == "left" and number < last:
                cell.truncate(width, overflow="ellipsis")
            if number < last and len(cell) < width:
                cell.align(justify, width)
            line.append_text(cell).append(_GAP if number < last else "")
        if self._console.is_terminal:
            line.truncate(self._console.width, overflow="crop")
        self._console.print(line, soft_wrap=True)


class WatchTable:
    """What `watch` shows: a row for each message, and a line that counts them."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._rows = Rows(self._console, (*PREDICTION_COLUMNS, ("from", 24, "left")))
        self._tally = AnswerTally()

    def __enter__(self) -> WatchTable:
        self._rows.__enter__()
        self.idle()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.__exit__(kind, error, trace)
        self._console.print(str(self._tally))

    def prediction(self, message: Message, prediction: Prediction, headers: Headers | None) -> None:
        self._tally.prediction(prediction.verdict)
        self._rows.add([*prediction_cells(prediction), Text(escaped(_place(message)), "dim")])
        self.idle()

    def dead_letter(self, message: Message, letter: DeadLetter, headers: Headers | None) -> None:
        self._tally.dead_letter()
        key = (letter.key or b"").decode(errors="replace")
        reason = Text(escaped(f"{letter.reason.value}: {letter.detail}"), "red")
        cells = {"record": Text(escaped(key) or "(no key)"), "verdict": Text("dead letter", "bold red")}
        self._rows.add([*(cells.get(heading, Text("")) for heading, _, _ in PREDICTION_COLUMNS), reason])
        self.idle()

    def idle(self) -> None:
        self._rows.status(str(self._tally))


def _place(message: Message) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"
