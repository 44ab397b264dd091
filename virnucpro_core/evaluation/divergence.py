"""How far two ways of computing the same predictions lie apart, by the measures of the published report.

The report (VirNucPro v2, FlashAttention against standard attention) compares labels, the confidence of each
prediction, and embeddings, and ends in a rule by the share of equal labels. Its 18 proteins are in
`reference/divergence_proteins.tsv`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.scoring.model import Evaluator, FloatArray
from virnucpro_core.scoring.packing import batches
from virnucpro_core.scoring.verdicts import VIRUS, calls
from virnucpro_core.sequence.prepare import PreparedFrame
from virnucpro_core.sequence.tokens import DnaTokenizer, esm2_token_ids

Advice = Literal["accept", "validate", "use v1"]

ACCEPT_OVER, VALIDATE_FROM = 0.99, 0.95
# The codon that stands for each amino acid where a protein comes without nucleotides: the most frequent one of
# Escherichia coli. The head needs both; which codons it is matters little, as both paths get the same.
_CODONS = {
    "A": "GCG", "C": "TGC", "D": "GAT", "E": "GAA", "F": "TTT", "G": "GGC", "H": "CAT", "I": "ATT", "K": "AAA",
    "L": "CTG", "M": "ATG", "N": "AAC", "P": "CCG", "Q": "CAG", "R": "CGT", "S": "AGC", "T": "ACC", "V": "GTG",
    "W": "TGG", "Y": "TAT",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Divergence:
    """Two sets of predictions for the same frames, compared.

    Attributes:
        frames: how many.
        label_agreement: share of frames that both call the same.
        confidence_correlation: Pearson's r of the score of the winning label; 1 for identical constants.
        score_difference: highest absolute difference of a virus score.
        cosine_min, cosine_mean: cosine of the two features of a frame.
        mean_absolute_difference: over all values of the features.
        within_1e3, within_1e2: share of feature values that differ by less.
    """

    frames: int
    label_agreement: float
    confidence_correlation: float
    score_difference: float
    cosine_min: float
    cosine_mean: float
    mean_absolute_difference: float
    within_1e3: float
    within_1e2: float

    @property
    def advice(self) -> Advice:
        """The report's rule: over 99% equal labels accept, 95 to 99% validate on own data, below use v1."""
        if self.label_agreement > ACCEPT_OVER:
            return "accept"
        return "validate" if self.label_agreement >= VALIDATE_FROM else "use v1"

    def as_dict(self) -> dict[str, Any]:
        """All figures and the advice, for JSON."""
        return asdict(self) | {"advice": self.advice}


def compare(
    features: FloatArray, scores: FloatArray, other_features: FloatArray, other_scores: FloatArray
) -> Divergence:
    """Compare features [frames, dim] and scores [frames, 2] (others, virus) of two computations.

    Raises:
        ValueError: the shapes differ, or there are no frames.
    """
    if features.shape != other_features.shape or scores.shape != other_scores.shape or not len(features):
        raise ValueError(f"nothing to compare: {features.shape} {scores.shape}, {other_features.shape}")
    difference = np.abs(features.astype(np.float64) - other_features)
    cosine = _cosine(features.astype(np.float64), other_features.astype(np.float64))
    return Divergence(
        frames=len(features),
        label_agreement=float((calls(scores) == calls(other_scores)).mean()),
        confidence_correlation=_correlation(scores.max(axis=1), other_scores.max(axis=1)),
        score_difference=float(np.abs(scores[:, VIRUS].astype(np.float64) - other_scores[:, VIRUS]).max()),
        cosine_min=float(cosine.min()),
        cosine_mean=float(cosine.mean()),
        mean_absolute_difference=float(difference.mean()),
        within_1e3=float((difference < 1e-3).mean()),
        within_1e2=float((difference < 1e-2).mean()),
    )


def measure(
    ours: Evaluator, theirs: Evaluator, frames: Sequence[PreparedFrame], token_budget: int
) -> Divergence:
    """Run frames through two engines, packed into batches of at most `token_budget` tokens, and compare.

    Raises:
        ValueError: there are no frames, or one is over the budget.
        CoreError: an engine failed.
    """
    parts = [
        (*ours.features_and_scores(batch), *theirs.features_and_scores(batch))
        for batch in batches(frames, token_budget)
    ]
    if not parts:
        raise ValueError("nothing to compare: there are no frames")
    return compare(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def published_proteins() -> dict[str, str]:
    """The 18 proteins of the published test, by name; each is a unit repeated."""
    text = (files("virnucpro_core") / "data" / "reference" / "divergence_proteins.tsv").read_text(
        encoding="ascii"
    )
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return {name: unit * int(repeats) for name, unit, repeats, _ in rows}


def frames_of_proteins(proteins: dict[str, str], tokenizer: DnaTokenizer) -> list[PreparedFrame]:
    """Frames for proteins that come without nucleotides: those are made with one fixed codon per amino acid.

    Raises:
        KeyError: a protein holds another letter than the 20 amino acids.
    """
    nucleotides = ["".join(_CODONS[residue] for residue in protein) for protein in proteins.values()]
    dna = tokenizer.encode(nucleotides)
    return [
        PreparedFrame(chunk=index, label="F1", protein_ids=esm2_token_ids(protein), dna_ids=ids)
        for index, (protein, ids) in enumerate(zip(proteins.values(), dna, strict=True))
    ]


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine: NDArray[np.float64] = (a * b).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return cosine


def _correlation(a: FloatArray, b: FloatArray) -> float:
    if np.array_equal(a, b):
        return 1.0
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])
