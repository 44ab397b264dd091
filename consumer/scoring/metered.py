"""Counts what the model computes: below the cache of frames, so that what the cache answers is not counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from virnucpro_core.scoring.model import Enqueued, FloatArray, Scorer, queueing
from virnucpro_core.sequence.prepare import PreparedFrame


class MeteredScorer:
    """The scorer itself, each call reported.

    Args:
        computes: called with the protein and the nucleotide tokens of the frames, before they are computed; on the
            threads that enqueue and score.
    """

    def __init__(self, scorer: Scorer, computes: Callable[[int, int], None]) -> None:
        self._scorer, self._queue, self._computes = scorer, queueing(scorer), computes

    def score(self, frames: Sequence[PreparedFrame]) -> FloatArray:
        """As the scorer's own, with its errors."""
        self._report(frames)
        return self._scorer.score(frames)

    def enqueue(self, frames: Sequence[PreparedFrame]) -> Enqueued:
        """As the scorer's own, with its errors; one without a queue computes when it is read."""
        self._report(frames)
        return self._queue.enqueue(frames)

    def _report(self, frames: Sequence[PreparedFrame]) -> None:
        self._computes(sum(frame.tokens for frame in frames), sum(len(frame.dna_ids) for frame in frames))
