"""Predictions and dead letters as JSON lines, with where they were found."""

from __future__ import annotations

import base64
import sys
from dataclasses import asdict
from typing import Any

from confluent_kafka import Message

from consumer.cli.error_messages import warn
from consumer.cli.output.answer_tally import AnswerTally
from consumer.escaping import json_line
from consumer.types import Headers
from schemas import DeadLetter, Prediction
from virnucpro_core.scoring.decimals import as_printed_or_none


class JsonLines:
    """Prints each message on stdout as it comes, and counts it in the tally."""

    def __init__(self, tally: AnswerTally) -> None:
        self._tally = tally

    def prediction(self, message: Message, prediction: Prediction, headers: Headers | None) -> None:
        self._tally.prediction(prediction.verdict)
        _print(prediction_json(message, prediction, headers))

    def dead_letter(self, message: Message, letter: DeadLetter, headers: Headers | None) -> None:
        self._tally.dead_letter()
        _print(dead_letter_json(message, letter, headers))

    def idle(self) -> None:
        """Nothing to do: every line was flushed."""


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json_line(line) + "\n")
    sys.stdout.flush()


def prediction_json(message: Message, prediction: Prediction, headers: Headers | None) -> dict[str, Any]:
    """A prediction and where it was found, for one JSON line; scores print as float32's shortest decimals."""
    value = asdict(prediction)
    for name in ("virus_score", "others_score"):
        value[name] = as_printed_or_none(value[name])
    for chunk in value["chunks"]:
        for frame in chunk["frames"]:
            frame["others"], frame["virus"] = (
                as_printed_or_none(frame["others"]),
                as_printed_or_none(frame["virus"]),
            )
    return {"type": "prediction", **value, "kafka": coordinates(message, headers)}


def dead_letter_json(message: Message, letter: DeadLetter, headers: Headers | None) -> dict[str, Any]:
    """A dead letter and where it was found, for one JSON line; raw bytes are in base64."""
    value = asdict(letter)
    value["value"] = None if letter.value is None else {"base64": base64.b64encode(letter.value).decode()}
    value["key"] = _text(letter.key)
    return {"type": "dead_letter", **value, "kafka": coordinates(message, headers)}


def coordinates(message: Message, headers: Headers | None) -> dict[str, Any]:
    """Topic, partition, offset, timestamp, key and headers (in order; a name may stand twice; none if one of the names
    is not UTF-8)."""
    kind, timestamp = message.timestamp()
    if headers is None:
        warn(
            f"{message.topic()}/{message.partition()}/{message.offset()} is shown without its headers: "
            "a name is not UTF-8"
        )
    return {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp_ms": timestamp if kind else None,
        "key": _text(message.key()),
        "headers": [[name, _text(value)] for name, value in headers or ()],
    }


def _text(value: str | bytes | None) -> str | dict[str, str] | None:
    """Bytes as text where they are UTF-8, else as {"base64": ...}."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
