"""Noise for training: masked tokens for the language-model losses, and random mutations of nucleotides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BASES = np.frombuffer(b"ACGT", dtype=np.uint8)
_MASKED, _RANDOM = 0.8, 0.1  # BERT's shares; the remaining tenth keeps its token and is predicted too


@dataclass(frozen=True, slots=True)
class MaskRule:
    """How tokens are masked: the mask token, the range first..last (last exclusive) of the tokens that may
    stand in for another, the share of sequences that are masked at all, and the share of tokens in those."""

    mask: int
    first: int
    last: int
    sequences: float
    rate: float


@dataclass(frozen=True, slots=True)
class Masked:
    """Token ids with some hidden. ids int32 [tokens]; positions int64 [hidden], ascending, and
    targets int64 [hidden]: where tokens are to be predicted, and which they were."""

    ids: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]


def mask_tokens(
    ids: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    rule: MaskRule,
    rng: np.random.Generator,
) -> Masked:
    """Hide tokens of packed sequences (int32 [tokens] ids of sequences with these `lengths`, each >= 2).

    The first and the last token of a sequence (the special ones) are never touched. Whole sequences stay
    clean at the rate 1 - rule.sequences, because the model is used on clean ones.
    """
    rates = np.where(rng.random(len(lengths)) < rule.sequences, rule.rate, 0.0)
    chosen = rng.random(len(ids)) < np.repeat(rates, lengths)
    ends = np.cumsum(lengths)
    chosen[ends - 1] = False
    chosen[ends - lengths] = False
    positions = np.flatnonzero(chosen)
    targets = ids[positions].astype(np.int64)
    kind = rng.random(len(positions))
    noised = ids.copy()
    noised[positions[kind < _MASKED]] = rule.mask
    random = positions[(kind >= _MASKED) & (kind < _MASKED + _RANDOM)]
    noised[random] = rng.integers(rule.first, rule.last, len(random))
    return Masked(noised, positions, targets)


def mutate(nucleotides: str, rate: float, rng: np.random.Generator) -> str:
    """`nucleotides` with about rate * 3/4 of its letters replaced by another base."""
    letters = np.frombuffer(nucleotides.encode("ascii"), dtype=np.uint8).copy()
    hit = np.flatnonzero(rng.random(len(letters)) < rate)
    letters[hit] = _BASES[rng.integers(0, 4, len(hit))]
    return letters.tobytes().decode("ascii")
