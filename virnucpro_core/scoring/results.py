"""From the scores of its frames to the result of a record, by VirNucPro's rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.errors import NotFinite
from virnucpro_core.scoring.verdicts import is_virus
from virnucpro_core.sequence.chunks import chunk_name
from virnucpro_core.sequence.prepare import PreparedRecord

Verdict = Literal["virus", "others", "no_open_frame"]


@dataclass(frozen=True, slots=True)
class FrameResult:
    """The softmax scores of one open frame; each is exactly a float32."""

    label: str
    others: float
    virus: float


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """One chunk: `sequence[start:end]`, its verdict, its open frames in the order F1 to R3."""

    name: str
    start: int
    end: int
    verdict: Verdict
    frames: tuple[FrameResult, ...]

    @property
    def others_score(self) -> float | None:
        """The highest others score over the frames; None without an open frame."""
        return max((frame.others for frame in self.frames), default=None)

    @property
    def virus_score(self) -> float | None:
        """The highest virus score over the frames; None without an open frame."""
        return max((frame.virus for frame in self.frames), default=None)


@dataclass(frozen=True, slots=True)
class RecordResult:
    """The answer for one record.

    Attributes:
        record_id: the record's id.
        length: bases in the sequence.
        verdict: VirNucPro's rule for a chunk, applied to all frames of all chunks.
        virus_score: the highest virus score over all frames; None without an open frame.
        others_score: the highest others score over all frames; None without an open frame.
        chunks: in the order of the sequence.
    """

    record_id: str
    length: int
    verdict: Verdict
    virus_score: float | None
    others_score: float | None
    chunks: tuple[ChunkResult, ...]


def verdict(others: float, virus: float) -> Verdict:
    """The word for the highest others score and the highest virus score."""
    return "virus" if is_virus(others, virus) else "others"


def verdict_over(frames: Sequence[FrameResult]) -> Verdict:
    """VirNucPro's rule: virus if the highest virus score is at least the highest others score."""
    if not frames:
        return "no_open_frame"
    return verdict(max(f.others for f in frames), max(f.virus for f in frames))


def assemble(prepared: PreparedRecord, scores: NDArray[np.float32]) -> RecordResult:
    """Put the scores of a record's frames together.

    Args:
        prepared: the record.
        scores: float32 [frames, 2], softmax, in the order of `prepared.frames`; column 0 is others, 1 virus.

    Raises:
        ValueError: `scores` has another shape or dtype.
        NotFinite: a score is NaN or infinite.
    """
    if scores.shape != (len(prepared.frames), 2) or scores.dtype != np.float32:
        raise ValueError(
            f"{len(prepared.frames)} frames cannot have scores {scores.dtype} {list(scores.shape)}"
        )
    if not np.isfinite(scores).all():
        raise NotFinite(f"a score of record {prepared.record_id} is not finite")
    by_chunk: list[list[FrameResult]] = [[] for _ in prepared.spans]
    for frame, (others, virus) in zip(prepared.frames, scores.tolist(), strict=True):
        by_chunk[frame.chunk].append(FrameResult(frame.label, others, virus))
    chunks = tuple(
        ChunkResult(chunk_name(prepared.record_id, index), start, end, verdict_over(frames), tuple(frames))
        for index, ((start, end), frames) in enumerate(zip(prepared.spans, by_chunk, strict=True))
    )
    every_frame = [frame for frames in by_chunk for frame in frames]
    return RecordResult(
        record_id=prepared.record_id,
        length=prepared.length,
        verdict=verdict_over(every_frame),
        virus_score=max((frame.virus for frame in every_frame), default=None),
        others_score=max((frame.others for frame in every_frame), default=None),
        chunks=chunks,
    )
