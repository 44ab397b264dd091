"""The probability that a record is viral: of the mean margin of its chunks, and how many they are.

    logit(p) = intercept + log_chunks * ln(n) + (margin + interaction * ln(n)) * mean margin

n are the chunks with an open frame. This is Platt's scaling (Platt 1999, Probabilistic outputs for support vector
machines) with two more terms: the mean over many chunks says more than that of one, so its slope grows with ln(n).
`virnucpro_core.evaluation.calibration_fit` finds the numbers; they are a part of a bundle's manifest. The probability
is for a sample in which half of the records are viral; `at_prior` moves it to another share by Bayes' rule.

No numpy is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from virnucpro_core.scoring.margins import margin_of
from virnucpro_core.scoring.results import RecordResult

MOST_MARGIN = 10.0
"""A chunk's margin counts as this at most, on either side: beyond, the last digits of a float32 score decide."""
EVEN = 0.5
"""The share of viral records that a probability assumes unless another is given."""

Probability = Callable[[RecordResult], float | None]
"""The probability that a record is viral, 0 to 1; None if it has no open frame."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The numbers of a model's calibration.

    Attributes:
        intercept, margin, log_chunks, interaction: see the head of this module. The slope of the mean margin,
            `margin + interaction * ln(n)`, is positive for every n up to `most_chunks`.
        most_chunks: of a record or piece that it was fitted on, at least 1; a record with more counts as this many,
            since nothing was seen beyond.
        about: what it was fitted on and how good it is; free form.
    """

    intercept: float
    margin: float
    log_chunks: float
    interaction: float
    most_chunks: int
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError: a number is not finite, or a higher margin would give a lower probability."""
        numbers = (self.intercept, self.margin, self.log_chunks, self.interaction)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("a number is not finite")
        if self.most_chunks < 1:
            raise ValueError(f"most_chunks must be positive, not {self.most_chunks}")
        if min(self.margin, self.margin + self.interaction * math.log(self.most_chunks)) <= 0:
            raise ValueError("a higher margin would give a lower probability")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def log_odds(self, margins: list[float], prior: float = EVEN) -> float:
        """The log odds of virus for a record or piece with these margins of its chunks, at least one.

        Args:
            prior: as of `at_prior`.
        """
        mean = sum(min(max(margin, -MOST_MARGIN), MOST_MARGIN) for margin in margins) / len(margins)
        log_chunks = math.log(min(len(margins), self.most_chunks))
        even = (
            self.intercept
            + self.log_chunks * log_chunks
            + (self.margin + self.interaction * log_chunks) * mean
        )
        return even + math.log(prior) - math.log1p(-prior)

    def at_prior(self, prior: float = EVEN) -> Probability:
        """The probability of records of a sample.

        Args:
            prior: the share of the sample's records that are expected to be viral, above 0 and below 1.

        Raises:
            ValueError: it is not.
        """
        if not 0 < prior < 1:
            raise ValueError(f"a prior is above 0 and below 1, not {prior}")

        def probability(result: RecordResult) -> float | None:
            margins = [margin_of(chunk.frames) for chunk in result.chunks if chunk.frames]
            return _sigmoid(self.log_odds(margins, prior)) if margins else None

        return probability


def _sigmoid(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2
