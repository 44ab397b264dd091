"""The margin behind VirNucPro's verdict: log odds of virus, of the frames of a chunk or a record."""

from __future__ import annotations

import math
from collections.abc import Sequence

from virnucpro_core.scoring.results import FrameResult

# A score is a float32 of 0 to 1. Clipped to these, all different scores stay different.
_LEAST, _MOST = 1e-46, 1 - 2.0**-25


def margin_of(frames: Sequence[FrameResult]) -> float:
    """The margin behind VirNucPro's verdict over some frames, at least one; it is >= 0 where that is virus.

    The mean of log odds of the highest virus score and minus log odds of the highest others score; of a single
    frame it is log(virus / others). It is taken from the two scores that the verdict compares, not from
    the margins of the frames, so that its sign is the verdict also where float32 scores are rounded to 1.
    """
    virus, others = max(frame.virus for frame in frames), max(frame.others for frame in frames)
    return (_log_odds(virus) - _log_odds(others)) / 2


def _log_odds(score: float) -> float:
    clipped = min(max(score, _LEAST), _MOST)
    return math.log(clipped) - math.log1p(-clipped)
