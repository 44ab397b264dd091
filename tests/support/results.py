"""Results of records from the scores of their frames, for tests of what is made of them."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np

from virnucpro_core.scoring.outcomes import LeftOut, Outcome, ScoredRecord
from virnucpro_core.scoring.report import Details, Format, report_of, reports
from virnucpro_core.scoring.results import ChunkResult, FrameResult, RecordResult, verdict_over

Frames = list[tuple[str, float, float]]
"""(label, others, virus) of the frames of a chunk."""


def f32(value: float) -> float:
    """The float that a float32 score is."""
    return float(np.float32(value))


def result(record_id: str, *chunks: Frames, size: int = 10, step: int = 10) -> RecordResult:
    """A record of chunks of `size` bases that begin every `step` bases."""
    made = tuple(
        ChunkResult(
            f"{record_id}_chunk_{n + 1}", step * n, step * n + size, verdict_over(frames), tuple(frames)
        )
        for n, frames in enumerate(
            [FrameResult(label, f32(others), f32(virus)) for label, others, virus in chunk]
            for chunk in chunks
        )
    )
    frames = [frame for chunk in made for frame in chunk.frames]
    return RecordResult(
        record_id,
        step * (len(chunks) - 1) + size,
        verdict_over(frames),
        max((frame.virus for frame in frames), default=None),
        max((frame.others for frame in frames), default=None),
        made,
    )


def of_virus_scores(record_id: str, *scores: float | None, size: int = 10, step: int = 10) -> RecordResult:
    """A record with one frame a chunk that has this virus score; None is a chunk without an open frame."""
    chunks: list[Frames] = [[] if score is None else [("F1", 1 - score, score)] for score in scores]
    return result(record_id, *chunks, size=size, step=step)


def scored(found: RecordResult, description: str | None = None, letters: str | None = None) -> ScoredRecord:
    """The result as the outcome of a record, by default of As."""
    return ScoredRecord(
        (found.record_id, description, "A" * found.length if letters is None else letters), found
    )


def left_out(record_id: str = "bad", letters: str = "5") -> LeftOut:
    """A record with a digit."""
    return LeftOut(
        (record_id, None, letters), "invalid_nucleotides", "'5' at position 1 is not a nucleotide code"
    )


def text_of(form: Format, outcomes: Iterable[RecordResult | Outcome], details: Details | None = None) -> str:
    """The report of one format that goes to a stream."""
    stream = io.StringIO()
    with reports([report_of(form, stream, details or Details())]) as write:
        for outcome in outcomes:
            write(scored(outcome) if isinstance(outcome, RecordResult) else outcome)
    return stream.getvalue()
