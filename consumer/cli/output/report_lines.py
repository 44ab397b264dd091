"""Predictions from a topic in the formats of `predict`; dead letters on stderr, a line each."""

from __future__ import annotations

from confluent_kafka import Message

from consumer.cli.error_messages import warn
from consumer.cli.output.answer_tally import AnswerTally
from consumer.cli.output.prediction_result import outcome_of
from consumer.types import Headers
from schemas import DeadLetter, Prediction
from virnucpro_core.scoring.report import Write


class ReportLines:
    """Adds each prediction to an open report.

    Args:
        write: adds a record to the report.
        tally: counts what comes.
    """

    def __init__(self, write: Write, tally: AnswerTally) -> None:
        self._write, self._tally = write, tally

    def prediction(self, message: Message, prediction: Prediction, headers: Headers | None) -> None:
        self._tally.prediction(prediction.verdict)
        self._write(outcome_of(prediction))

    def dead_letter(self, message: Message, letter: DeadLetter, headers: Headers | None) -> None:
        self._tally.dead_letter()
        name = (letter.key or b"").decode(errors="replace") or "(no key)"
        warn(f"{name} is a dead letter: {letter.reason.value}: {letter.detail}")

    def idle(self) -> None:
        """Nothing to do."""
