"""Makes the prediction of a whole record of those of its parts: the same that the service gives for the whole.

Whoever reads predictions joins them by this module: `virnucpro publish --wait`, `virnucpro watch --join` and
`virnucpro_client.Client`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from schemas import ChunkPrediction, Prediction, Verdict
from schemas.json_text import shortest_float32
from virnucpro_client.parts import Part, follow_each_other
from virnucpro_core.scoring.contig_rule import CALL_FIELDS, ContigRule

MAX_WAITING_CHUNKS = 500_000
"""Chunks of predictions that wait for other parts: 250 million bases, some 300 MB."""
_MAX_FINISHED = 10_000
_NAMED = 9
_RULE = ContigRule()  # as in the service


class PartsDiffer(ValueError):
    """The predictions of the parts do not make that of one record; the text is one line for people."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A record whose parts were not all predicted.

    Attributes:
        group: of its parts.
        record_id: its id.
        why: which parts are missing and what is known of each, one line for people.
    """

    group: str
    record_id: str
    why: str


@dataclass(slots=True)
class _Group:
    """The parts of one record so far."""

    count: int
    record_id: str
    predictions: dict[int, tuple[Part, Prediction]] = field(default_factory=dict)
    dead: dict[int, str] = field(default_factory=dict)
    touched_at: float = 0.0

    @property
    def size(self) -> int:
        """What it holds, in chunks; parts without a chunk count too, so that they cannot pile up."""
        return 1 + len(self.dead) + sum(1 + len(found.chunks) for _, found in self.predictions.values())

    @property
    def why(self) -> str:
        lacking = (number for number in range(1, self.count + 1) if number not in self.predictions)
        named = list(islice(lacking, _NAMED))  # a header may claim any number of parts
        shown = ", ".join(str(n) + (f" ({self.dead[n]})" if n in self.dead else "") for n in named)
        further = self.count - len(self.predictions) - len(named)
        more = f" and {further} more" if further else ""
        return f"of its {self.count} parts no prediction of {shown}{more} has come"


class Joiner:
    """Keeps the predictions of parts until their record is complete.

    Args:
        within_s: a record is given up when no part of it has come for so long, in seconds; None: never.
        max_chunks: when more wait, the record that has waited longest for a part is given up.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        within_s: float | None = None,
        max_chunks: int = MAX_WAITING_CHUNKS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._within_s, self._max_chunks, self._clock = within_s, max_chunks, clock
        self._groups: OrderedDict[str, _Group] = (
            OrderedDict()
        )  # the one that was touched last is the last one
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._waiting = 0
        self._given_up: list[Incomplete] = []

    def add(self, part: Part, prediction: Prediction) -> Prediction | None:
        """The prediction of the whole record when this is the last of its parts; else None.

        A part that comes again is passed over, as is one of a record that is finished.
        """
        group = self._touched(part, prediction.id)
        if group is None or part.number in group.predictions:
            return None
        self._waiting -= group.size
        group.record_id = prediction.id
        group.predictions[part.number] = part, prediction
        group.dead.pop(part.number, None)
        self._waiting += group.size
        if len(group.predictions) < group.count:
            self._keep_the_bound()
            return None
        self.forget(part.group)
        try:
            return joined(group.predictions)
        except PartsDiffer as error:
            self._given_up.append(Incomplete(part.group, group.record_id, str(error)))
            return None

    def dead_letter(self, part: Part, record_id: str, why: str) -> None:
        """A part has a dead letter. It may be replayed, so the record waits on."""
        group = self._touched(part, record_id)
        if group is not None and part.number not in group.predictions:
            self._waiting -= group.size
            group.dead[part.number] = why
            self._waiting += group.size
            self._keep_the_bound()

    def why(self, group: str) -> str | None:
        """What is missing of a record; None where none of its parts has come, or it is finished."""
        return self._groups[group].why if group in self._groups else None

    def forget(self, group: str) -> None:
        """No more is expected of a record: what comes is passed over."""
        if (known := self._groups.pop(group, None)) is not None:
            self._waiting -= known.size
        self._finished[group] = None
        if len(self._finished) > _MAX_FINISHED:
            self._finished.popitem(last=False)

    def given_up(self, everything: bool = False) -> Iterator[Incomplete]:
        """Each record that was given up since the last call, once.

        Args:
            everything: give up all that wait, since no more parts come.
        """
        now = self._clock()
        while self._groups:
            name, group = next(iter(self._groups.items()))
            if everything:
                self._give_up(name, "")
            elif self._within_s is not None and now - group.touched_at >= self._within_s:
                self._give_up(name, f", and none at all for {self._within_s:g} s")
            else:
                break
        while self._given_up:
            yield self._given_up.pop(0)

    def _touched(self, part: Part, record_id: str) -> _Group | None:
        if part.group in self._finished:
            return None
        if part.group not in self._groups:
            self._groups[part.group] = _Group(part.count, record_id)
            self._waiting += self._groups[part.group].size
        group = self._groups[part.group]
        group.touched_at = self._clock()
        self._groups.move_to_end(part.group)
        return group if part.count == group.count else None

    def _keep_the_bound(self) -> None:
        while self._waiting > self._max_chunks:
            self._give_up(
                next(iter(self._groups)), f", and more than {self._max_chunks:,} chunks wait for others"
            )

    def _give_up(self, name: str, when: str) -> None:
        group = self._groups[name]
        self._given_up.append(Incomplete(name, group.record_id, group.why + when))
        self.forget(name)


def joined(parts: Mapping[int, tuple[Part, Prediction]]) -> Prediction:
    """The prediction of the record with these parts, all of them, by their numbers from 1.

    It equals the service's prediction of the whole record, but for the source, which is that of the first part.

    Raises:
        PartsDiffer: the parts do not fit together, or were scored by different models.
    """
    ordered = [parts[number] for number in sorted(parts)]
    (first, stamp), predictions = ordered[0], [prediction for _, prediction in ordered]
    made_by = {_without_source(prediction) for prediction in predictions}
    if len(made_by) > 1:
        raise PartsDiffer("its parts were scored by different models or settings: publish it again")
    size = stamp.provenance.expected_length
    if size != first.chunk_size:
        raise PartsDiffer(
            f"it was cut for chunks of {first.chunk_size} bases, and the model's have {size}: publish it again with "
            f"--chunk-size {size}"
        )
    whole = [(part.group, part.count, part.length, prediction.id) for part, prediction in ordered]
    lengths = [prediction.length for prediction in predictions]
    if len(set(whole)) > 1 or not follow_each_other([part for part, _ in ordered], lengths):
        raise PartsDiffer("its parts do not make a whole record: publish it again")
    chunks: list[ChunkPrediction] = []
    for part, prediction in ordered:
        for chunk in prediction.chunks:
            name = f"{prediction.id}_chunk_{len(chunks) + 1}"
            chunks.append(
                replace(chunk, name=name, start=chunk.start + part.start, end=chunk.end + part.start)
            )
    virus = max((each.virus_score for each in predictions if each.virus_score is not None), default=None)
    others = max((each.others_score for each in predictions if each.others_score is not None), default=None)
    verdict = Verdict.NO_OPEN_FRAME
    if virus is not None and others is not None:
        verdict = Verdict.VIRUS if virus >= others else Verdict.OTHERS
    scores = [
        (
            shortest_float32(max(frame.others for frame in chunk.frames)),
            shortest_float32(max(frame.virus for frame in chunk.frames)),
        )
        for chunk in chunks
        if chunk.frames
    ]
    call: dict[str, Any] = dict.fromkeys(CALL_FIELDS) | (_RULE.call(scores).as_dict() if scores else {})
    return replace(
        stamp,
        length=first.length,
        verdict=verdict,
        virus_score=virus,
        others_score=others,
        chunks=tuple(chunks),
        **call,
    )


def _without_source(prediction: Prediction) -> object:
    return replace(prediction.provenance, source_topic=None, source_partition=None, source_offset=None)
