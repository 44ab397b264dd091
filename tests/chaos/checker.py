"""Decides, answer by answer, whether the service kept its promise. Pure: it knows no Kafka and no clock.

Every record of a run has a number; numbers rise with the offsets of each input partition. The checker knows which
answer each number must get, and is told every answer in the order in which a reader of its partition sees it. At the
end it is told what was deleted of the input, and what the service reported of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

PREDICTION = "prediction"
QUARANTINED = "quarantined"
Topic = Literal["predictions", "dead letters"]
Headers = tuple[tuple[str, bytes | None], ...]
Kind = Literal[
    "lost",
    "twice",
    "out_of_order",
    "skipped_without_event",
    "not_skipped",
    "good_quarantined",
    "good_dead_lettered",
    "both_topics",
    "wrong_answer",
    "wrong_partition",
    "wrong_source",
    "wrong_headers",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a record must get: a prediction, or a dead letter with this reason; in its input's partition number.

    Attributes:
        outcome: PREDICTION, or the reason of its dead letter.
        incarnation: how often the input topic had been recreated when it was published.
        offset: of its message, in its partition of that topic.
        headers: those of its message that the answer must carry.
        value: of its message, where the dead letter must have it.
    """

    partition: int
    outcome: str
    incarnation: int = 0
    offset: int = -1
    headers: Headers = ()
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reader saw; `number` is -1 where the answer names no record of this run.

    Attributes:
        source: input partition and offset, as the answer names them.
        own: the service's own headers, as far as they say more than `source`.
        headers: all others.
        value: of the message that was refused, in a dead letter.
    """

    number: int
    topic: Topic
    partition: int
    offset: int
    outcome: str
    source: tuple[int, int] | None = None
    own: Headers = ()
    headers: Headers = ()
    value: bytes | None = None

    @property
    def at(self) -> str:
        """Its coordinates, as a person looks them up."""
        return f"{self.topic} {self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True)
class Skip:
    """Offsets of an input partition that the service reported as deleted before they were read."""

    incarnation: int
    partition: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was deleted of the input, and what the service reported of it.

    Attributes:
        before: by incarnation and partition, the first offset that was left.
        skips: what was reported; the same may be reported again.
        incarnations: how many input topics there were one after another.
        reported: the incarnations whose end was reported.
    """

    before: Mapping[tuple[int, int], int] = field(default_factory=dict)
    skips: Sequence[Skip] = ()
    incarnations: int = 1
    reported: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Violation:
    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class Checker:
    """Compares answers with what was expected.

    Args:
        expected: by record number; it may grow meanwhile, before a record's answer can be seen.
        repeats_allowed: whether an answer may come again (at least once); `repeats` counts them in any case.
    """

    def __init__(self, expected: Sequence[Expected], *, repeats_allowed: bool) -> None:
        self._expected, self._repeats_allowed = expected, repeats_allowed
        self._first: dict[int, Answer] = {}
        self._last: dict[tuple[Topic, int], Answer] = {}
        self.repeats = 0
        self.skipped = 0
        """How many records have no answer and need none, as the service reported; known after `missing`."""

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

    def missing(self, deleted: Deleted = Deleted()) -> list[Violation]:
        """At the end: the records that got no answer and should have, and what was reported and is not so."""
        skips = _Skips(deleted.skips)
        furthest: dict[tuple[int, int], int] = {}
        for number in self._first:
            record = self._expected[number]
            key = (record.incarnation, record.partition)
            furthest[key] = max(furthest.get(key, -1), record.offset)
        found = []
        for number, record in enumerate(self._expected):
            if number in self._first:
                if skips.cover(record) and not self._repeats_allowed:
                    found.append(
                        _about("not_skipped", number, record, "was reported as skipped, and is answered")
                    )
            elif (violation := self._unanswered(number, record, deleted, skips, furthest)) is not None:
                found.append(violation)
            else:
                self.skipped += 1
        return found + [
            Violation("not_skipped", f"{skip} was reported, and is more than was deleted")
            for skip in deleted.skips
            if skip.last >= deleted.before.get((skip.incarnation, skip.partition), 0)
        ]

    @staticmethod
    def _unanswered(
        number: int,
        record: Expected,
        deleted: Deleted,
        skips: _Skips,
        furthest: Mapping[tuple[int, int], int],
    ) -> Violation | None:
        """What is wrong about a record without an answer; None if it was deleted and that was reported."""
        key = (record.incarnation, record.partition)
        cut = record.offset < deleted.before.get(key, 0)
        if cut and skips.cover(record):
            return None
        went_with_its_topic = record.incarnation < deleted.incarnations - 1
        if went_with_its_topic and record.offset > furthest.get(key, -1):
            if record.incarnation in deleted.reported:
                return None
            return _about(
                "skipped_without_event", number, record, "went with its topic, without topic_recreated"
            )
        if cut:
            return _about(
                "skipped_without_event", number, record, "was deleted, and is in no records_skipped"
            )
        return _about("lost", number, record, "has no answer")

    def _wrong(self, answer: Answer) -> list[Violation]:
        expected = self._expected[answer.number]
        found = []
        if answer.outcome != expected.outcome:
            kind: Kind = "wrong_answer"
            if expected.outcome == PREDICTION:
                kind = "good_quarantined" if answer.outcome == QUARANTINED else "good_dead_lettered"
            found.append(self._violation(kind, answer, f"{answer.outcome} instead of {expected.outcome}"))
        elif answer.value != expected.value:
            found.append(self._violation("wrong_answer", answer, "with another value than its message has"))
        if answer.partition != expected.partition:
            found.append(self._violation("wrong_partition", answer, f"instead of {expected.partition}"))
        if answer.source != (expected.partition, expected.offset):
            place = f"{expected.partition}@{expected.offset}"
            found.append(self._violation("wrong_source", answer, f"names {answer.source} instead of {place}"))
        if (answer.own, answer.headers) != (own_headers(answer.outcome), expected.headers):
            found.append(self._violation("wrong_headers", answer, f"{(answer.own, answer.headers)!r:.200}"))
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


def own_headers(outcome: str) -> Headers:
    """The headers that the service adds beside vnp-source."""
    return () if outcome == PREDICTION else (("vnp-dlq-reason", outcome.encode()),)


class _Skips:
    """The ranges that were reported, by incarnation and partition."""

    def __init__(self, skips: Sequence[Skip]) -> None:
        self._ranges: dict[tuple[int, int], list[range]] = {}
        for skip in skips:
            ranges = self._ranges.setdefault((skip.incarnation, skip.partition), [])
            ranges.append(range(skip.first, skip.last + 1))

    def cover(self, record: Expected) -> bool:
        """Whether one of them holds this record."""
        ranges = self._ranges.get((record.incarnation, record.partition), ())
        return any(record.offset in each for each in ranges)


def _about(kind: Kind, number: int, record: Expected, text: str) -> Violation:
    topic = f", incarnation {record.incarnation} of the topic" if record.incarnation else ""
    return Violation(
        kind, f"record {number} at offset {record.offset} of input partition {record.partition}{topic} {text}"
    )
