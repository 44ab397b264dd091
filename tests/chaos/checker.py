"""Decides, answer by answer, whether the service kept its promise. Pure: it knows no Kafka and no clock.

Every record of a run has a number; numbers rise with the offsets of each input partition. The checker knows which
answer each number must get, and is told every answer in the order in which a reader of its partition sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PREDICTION = "prediction"
Topic = Literal["predictions", "dead letters"]
Kind = Literal["lost", "twice", "out_of_order", "both_topics", "wrong_answer", "wrong_partition", "unknown"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a record must get: a prediction, or a dead letter with this reason; in its input's partition number."""

    partition: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reader saw; `number` is -1 where the answer names no record of this run."""

    number: int
    topic: Topic
    partition: int
    offset: int
    outcome: str

    @property
    def at(self) -> str:
        """Its coordinates, as a person looks them up."""
        return f"{self.topic} {self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True)
class Violation:
    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class Checker:
    """Compares answers with what was expected.

    Args:
        expected: by record number.
        repeats_allowed: whether an answer may come again (at least once); `repeats` counts them in any case.
    """

    def __init__(self, expected: Sequence[Expected], *, repeats_allowed: bool) -> None:
        self._expected, self._repeats_allowed = expected, repeats_allowed
        self._first: dict[int, Answer] = {}
        self._last: dict[tuple[Topic, int], Answer] = {}
        self.repeats = 0

    @property
    def answered(self) -> int:
        """How many records have an answer."""
        return len(self._first)

    def see(self, answer: Answer) -> list[Violation]:
        """Take the next answer of its partition; gives what is wrong with it."""
        if not 0 <= answer.number < len(self._expected):
            return [Violation("unknown", f"{answer.at} answers no record of this run")]
        first = self._first.get(answer.number)
        if first is None:
            self._first[answer.number] = answer
            return [*self._wrong(answer), *self._out_of_order(answer)]
        if first.topic != answer.topic:
            return [self._violation("both_topics", answer, f"after {first.at}")]
        self.repeats += 1
        return [] if self._repeats_allowed else [self._violation("twice", answer, f"after {first.at}")]

    def missing(self) -> list[Violation]:
        """At the end: the records that got no answer."""
        return [
            Violation("lost", f"record {number} of input partition {expected.partition} has no answer")
            for number, expected in enumerate(self._expected)
            if number not in self._first
        ]

    def _wrong(self, answer: Answer) -> list[Violation]:
        expected = self._expected[answer.number]
        found = []
        if answer.outcome != expected.outcome:
            found.append(
                self._violation("wrong_answer", answer, f"{answer.outcome} instead of {expected.outcome}")
            )
        if answer.partition != expected.partition:
            found.append(self._violation("wrong_partition", answer, f"instead of {expected.partition}"))
        return found

    def _out_of_order(self, answer: Answer) -> list[Violation]:
        last = self._last.get((answer.topic, answer.partition))
        if last is not None and answer.number < last.number:
            return [self._violation("out_of_order", answer, f"behind record {last.number} at {last.at}")]
        self._last[answer.topic, answer.partition] = answer
        return []

    @staticmethod
    def _violation(kind: Kind, answer: Answer, text: str) -> Violation:
        return Violation(kind, f"record {answer.number} at {answer.at}, {text}")
