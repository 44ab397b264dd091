"""The contig rule: a call on a whole record from the scores of its chunks, with a tier of confidence.

VirNucPro's own rule (`verdicts.py`) takes the surest frame for the whole, so a long record has many chances to be
called a virus. The contig rule, which pipelines around VirNucPro apply to its file of highest scores, weighs them all:

    delta = virus - others, weight = sqrt(|delta|), for the highest scores of each chunk
    weighted_delta = sum(delta * weight) / sum(weight)

Neither numpy nor anything else is imported here: the command line shows the numbers of the rule in its help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

Call = Literal["Viral", "Non-viral", "Ambiguous"]
Tier = Literal["high_confidence", "moderate_confidence", "low_confidence", "review"]

_LOWER: dict[Tier, Tier] = {
    "high_confidence": "low_confidence",
    "moderate_confidence": "low_confidence",
    "low_confidence": "review",
    "review": "review",
}
"""The tier of a record of few chunks, by the tier that it would have with more."""


@dataclass(frozen=True, slots=True)
class ContigCall:
    """What the rule says of one record.

    Attributes:
        call: `Viral`, `Non-viral` or `Ambiguous`.
        tier: how much the call is worth; `review` is the least.
        weighted_delta: -1 to 1; the weighted mean of virus minus others score over the chunks.
        n_chunks: chunks that have a score (an open frame).
        n_confident_viral, n_confident_nonviral: chunks with one score high and the other low.
        n_ambiguous: chunks with both scores high.
        viral_proportion, nonviral_proportion: the confident chunks of each kind, as shares of the chunks that are not
            ambiguous; 0 if all are.
    """

    call: Call
    tier: Tier
    weighted_delta: float
    n_chunks: int
    n_confident_viral: int
    n_confident_nonviral: int
    n_ambiguous: int
    viral_proportion: float
    nonviral_proportion: float

    def as_dict(self) -> dict[str, Any]:
        """By field, in the order of `CALL_FIELDS`."""
        return {name: getattr(self, name) for name in CALL_FIELDS}


CALL_FIELDS: tuple[str, ...] = tuple(ContigCall.__dataclass_fields__)
"""In the order in which tables and messages have them."""


@dataclass(frozen=True, slots=True)
class ContigRule:
    """The numbers of the rule.

    Attributes:
        min_weighted_delta: `Viral` above it, `Non-viral` below its negative, else `Ambiguous`.
        high_confidence_delta: above it, on either side, a call is of high and not of moderate confidence.
        min_confident_score, max_opposing_score: a chunk is confident with one score above the first and the other below
            the second.
        min_ambiguous_score: a chunk is ambiguous with both scores above it.
        min_viral_proportion, min_nonviral_proportion: least share of confident chunks for more than low confidence.
        min_chunks: a record with fewer is one tier lower.
    """

    min_weighted_delta: float = 0.3
    high_confidence_delta: float = 0.6
    min_confident_score: float = 0.8
    max_opposing_score: float = 0.3
    min_ambiguous_score: float = 0.7
    min_viral_proportion: float = 0.1
    min_nonviral_proportion: float = 0.1
    min_chunks: int = 5

    def call(self, scores: Sequence[tuple[float, float]]) -> ContigCall:
        """The call on a record of at least one chunk; scores: the highest others and virus score of each."""
        viral = sum(self._confident(virus, others) for others, virus in scores)
        nonviral = sum(self._confident(others, virus) for others, virus in scores)
        ambiguous = sum(min(pair) > self.min_ambiguous_score for pair in scores)
        effective = len(scores) - ambiguous
        viral_share = viral / effective if effective else 0.0
        nonviral_share = nonviral / effective if effective else 0.0
        delta = weighted_delta(scores)
        call: Call = "Ambiguous"
        is_backed = False
        if delta > self.min_weighted_delta:
            call, is_backed = "Viral", viral > 0 and viral_share >= self.min_viral_proportion
        elif delta < -self.min_weighted_delta:
            call, is_backed = "Non-viral", nonviral > 0 and nonviral_share >= self.min_nonviral_proportion
        return ContigCall(
            call,
            self._tier(call, delta, is_backed, len(scores)),
            delta,
            len(scores),
            viral,
            nonviral,
            ambiguous,
            viral_share,
            nonviral_share,
        )

    def _confident(self, score: float, opposing: float) -> bool:
        return score > self.min_confident_score and opposing < self.max_opposing_score

    def _tier(self, call: Call, delta: float, is_backed: bool, chunks: int) -> Tier:
        """is_backed: enough chunks are confident of the call."""
        if call == "Ambiguous":
            return "review"
        tier: Tier = "low_confidence"
        if is_backed:
            tier = "high_confidence" if abs(delta) > self.high_confidence_delta else "moderate_confidence"
        return _LOWER[tier] if chunks < self.min_chunks else tier


def weighted_delta(scores: Sequence[tuple[float, float]]) -> float:
    """The mean of virus minus others over (others, virus) of chunks, each weighted by the root of its size."""
    deltas = [virus - others for others, virus in scores]
    weights = [sqrt(abs(delta)) for delta in deltas]
    total = sum(weights)
    if total == 0:  # all are 0
        return sum(deltas) / len(deltas)
    return sum(delta * weight for delta, weight in zip(deltas, weights, strict=True)) / total
