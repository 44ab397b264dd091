"""Where in a record the virus is: its viral chunks, merged to stretches, as BED and as GFF3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO
from urllib.parse import quote

from virnucpro_core.scoring.decimals import float32_text
from virnucpro_core.scoring.outcomes import LeftOut, Outcome
from virnucpro_core.scoring.results import ChunkResult, RecordResult
from virnucpro_core.scoring.tables import one_cell, write_row

_GFF_SOURCE = "virnucpro-stream"
_GFF_STRETCH, _GFF_CHUNK = "viral_sequence", "region"
"""Terms of the Sequence Ontology: SO:0001041 and SO:0000001."""
_GFF_ID_LETTERS = ".:^*$@!+?|"
"""Beside letters, digits, `_` and `-`, what a name in GFF3 holds as it is."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Viral chunks of a record that belong together.

    Attributes:
        chunks: their results, at least one, in order.
    """

    chunks: tuple[ChunkResult, ...]

    @property
    def start(self) -> int:
        """First base, from 0."""
        return self.chunks[0].start

    @property
    def end(self) -> int:
        """One past the last base."""
        return self.chunks[-1].end

    @property
    def score(self) -> float:
        """The mean of the chunks' highest virus scores."""
        scores = [chunk.virus_score for chunk in self.chunks if chunk.virus_score is not None]
        return sum(scores) / len(scores)


def viral_stretches(chunks: Sequence[ChunkResult], max_gap: int) -> list[Stretch]:
    """Merge the viral chunks of a record.

    Two that follow one another belong together if they overlap, touch, or lie at most `max_gap` bases apart, and no
    chunk between them is called others. A chunk without an open frame says nothing, so it parts none.
    """
    found: list[list[ChunkResult]] = []
    is_open = False
    for chunk in chunks:
        if chunk.verdict == "others":
            is_open = False
        elif chunk.verdict == "virus":
            if is_open and chunk.start - found[-1][-1].end <= max_gap:
                found[-1].append(chunk)
            else:
                found.append([chunk])
            is_open = True
    return [Stretch(tuple(members)) for members in found]


class Bed:
    """BED6: each viral stretch and then its chunks; positions from 0, ends exclusive, scores times 1000.

    The fourth column tells them apart: `{id}_stretch_{n}` and VirNucPro's `{id}_chunk_{n}`.
    """

    def __init__(self, stream: TextIO, max_gap: int) -> None:
        self._stream, self._max_gap = stream, max_gap

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome, LeftOut):
            return
        result = outcome.result
        for number, stretch in enumerate(viral_stretches(result.chunks, self._max_gap), start=1):
            self._row(
                result,
                stretch.start,
                stretch.end,
                f"{result.record_id}_stretch_{number}",
                stretch.score,
            )
            for chunk in stretch.chunks:
                self._row(result, chunk.start, chunk.end, chunk.name, chunk.virus_score or 0.0)

    def finish(self) -> None:
        """Every row was written."""

    def _row(self, result: RecordResult, start: int, end: int, name: str, score: float) -> None:
        write_row(
            self._stream, one_cell(result.record_id), start, end, one_cell(name), round(1000 * score), "."
        )


class Gff3:
    """GFF3: each viral stretch, and its chunks as its parts; positions from 1, ends inclusive.

    The IDs of features are numbered over the whole file, so that records of one id have different ones.
    """

    def __init__(self, stream: TextIO, max_gap: int) -> None:
        self._stream, self._max_gap = stream, max_gap
        self._stretches = 0
        stream.write("##gff-version 3\n")

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome, LeftOut):
            return
        result = outcome.result
        for stretch in viral_stretches(result.chunks, self._max_gap):
            self._stretches += 1
            stretch_id = f"stretch_{self._stretches}"
            self._row(
                result,
                _GFF_STRETCH,
                (stretch.start, stretch.end),
                f"{stretch.score:.6g}",
                {"ID": stretch_id, "chunks": str(len(stretch.chunks))},
            )
            for chunk in stretch.chunks:
                attributes = {"Name": chunk.name, "others_score": float32_text(chunk.others_score)}
                score = float32_text(chunk.virus_score)
                self._row(
                    result, _GFF_CHUNK, (chunk.start, chunk.end), score, {"Parent": stretch_id} | attributes
                )

    def finish(self) -> None:
        """Every row was written."""

    def _row(
        self, result: RecordResult, kind: str, span: tuple[int, int], score: str, attributes: dict[str, str]
    ) -> None:
        start, end = span
        listed = ";".join(f"{name}={_escaped(value)}" for name, value in attributes.items())
        seqid = _escaped(result.record_id)
        write_row(self._stream, seqid, _GFF_SOURCE, kind, start + 1, end, score, ".", ".", listed)


def _escaped(text: str) -> str:
    """As GFF3 has names: percent-encoded in UTF-8 but for a few letters."""
    return quote(text, safe=_GFF_ID_LETTERS).replace("~", "%7E")
