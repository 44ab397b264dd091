"""Does an imported model compute what the original VirNucPro computed? Compares with eight frames of it.

The reference is in `reference/`: features and scores of the published weights (ESM-2 3B, DNABERT-S,
`500_model.pth`), in fp32.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.bundle.manifest import Manifest
from virnucpro_core.errors import CoreError
from virnucpro_core.models.precision import Tolerance
from virnucpro_core.scoring.model import FloatArray, VerifiableModel
from virnucpro_core.scoring.results import Verdict
from virnucpro_core.scoring.results import verdict as verdict_of
from virnucpro_core.sequence.chunks import chunk_name
from virnucpro_core.sequence.prepare import PreparedFrame, prepare
from virnucpro_core.sequence.tokens import DnaTokenizer, esm2_token_ids

DNA_DIM, PROTEIN_DIM = 768, 2560
"""Dimensions of the published DNABERT-S and ESM-2 3B; a feature vector is the one and then the other."""
CHUNK_SIZE = 500


@dataclass(frozen=True, slots=True)
class FrameComparison:
    """One frame, computed here and by the original.

    Attributes:
        frame: its id.
        dna_distance, protein_distance, distance: relative L2 distance of DNABERT-S's features, ESM-2's, and all.
        cosine: of all features.
        virus_score, original_virus_score: None where the original's classifier is another one.
        verdict, original_verdict: the same.
    """

    frame: str
    dna_distance: float
    protein_distance: float
    distance: float
    cosine: float
    virus_score: float | None
    original_virus_score: float | None
    verdict: Verdict | None
    original_verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All frames of the reference.

    Attributes:
        frames: in the order of the reference.
        tolerance, score_tolerance: the largest distance, and difference of a virus score, that is accepted.
    """

    frames: tuple[FrameComparison, ...]
    tolerance: float
    score_tolerance: float

    @property
    def distance(self) -> float:
        """The largest of a frame."""
        return max(frame.distance for frame in self.frames)

    @property
    def cosine(self) -> float:
        """The lowest of a frame."""
        return min(frame.cosine for frame in self.frames)

    @property
    def score_difference(self) -> float | None:
        """The largest difference of a virus score; None where they are not compared."""
        pairs = [(frame.virus_score, frame.original_virus_score) for frame in self.frames]
        found = [abs(ours - theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
        return max(found, default=None)

    @property
    def verdicts_equal(self) -> int:
        """Frames that both call the same."""
        return sum(frame.verdict == frame.original_verdict for frame in self.frames)

    @property
    def agrees(self) -> bool:
        """Are features and scores within the tolerance, and all verdicts the same? NaN disagrees."""
        return (
            all(frame.distance <= self.tolerance for frame in self.frames)
            and (self.score_difference is None or self.score_difference <= self.score_tolerance)
            and self.verdicts_equal == len(self.frames)
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {
            "distance": self.distance,
            "cosine": self.cosine,
            "score_difference": self.score_difference,
            "verdicts_equal": self.verdicts_equal,
            "agrees": self.agrees,
        }


def not_comparable(manifest: Manifest) -> str | None:
    """Why a model cannot be compared with the reference, or None if it can."""
    dims = (manifest.dnabert_s.dim, manifest.esm2.dim)
    if dims == (DNA_DIM, PROTEIN_DIM):
        return None
    return (
        f"the reference is of the published models, {DNA_DIM} + {PROTEIN_DIM} features; "
        f"this one has {dims[0]} + {dims[1]}"
    )


def compare_with_original(engine: VerifiableModel, manifest: Manifest, tolerance: Tolerance) -> Comparison:
    """Compute the frames of the reference and compare.

    Args:
        engine: the model's engine.
        manifest: the model's; with an expected length other than 500 only features are compared, because the
            scores of the reference are of the classifier for 500.
        tolerance: of the engine's precision.

    Raises:
        CoreError: the software does not find the frames that the original found.
    """
    frames = reference_frames(engine.tokenizer)
    scores = engine.score(frames) if manifest.expected_length == CHUNK_SIZE else None
    return compare(engine.features(frames), scores, tolerance)


def compare(features: FloatArray, scores: FloatArray | None, tolerance: Tolerance) -> Comparison:
    """Compare features [8, 3328] and scores [8, 2] (others, virus) with the original's.

    Raises:
        ValueError: the features are of another shape.
    """
    original = reference_features()
    if features.shape != original.shape:
        raise ValueError(f"features {list(features.shape)}, the reference has {list(original.shape)}")
    compared = []
    for index, frame in enumerate(_reference()["frames"]):
        ours, theirs = features[index].astype(np.float64), original[index].astype(np.float64)
        verdict: Verdict | None = None
        if scores is not None:
            verdict = verdict_of(*scores[index].tolist())
        compared.append(
            FrameComparison(
                frame=frame["id"],
                dna_distance=_distance(ours[:DNA_DIM], theirs[:DNA_DIM]),
                protein_distance=_distance(ours[DNA_DIM:], theirs[DNA_DIM:]),
                distance=_distance(ours, theirs),
                cosine=float(ours @ theirs / max(np.linalg.norm(ours) * np.linalg.norm(theirs), 1e-300)),
                virus_score=None if scores is None else float(scores[index, 1]),
                original_virus_score=None if scores is None else frame["virus"],
                verdict=verdict,
                original_verdict=None if scores is None else frame["prediction"],
            )
        )
    return Comparison(tuple(compared), tolerance.features, tolerance.score)


def reference_features() -> FloatArray:
    """The original's features, float32 [8, 3328]."""
    content = (files("virnucpro_core") / "data" / "reference" / "features.npy").read_bytes()
    features: FloatArray = np.load(io.BytesIO(content), allow_pickle=False)
    return features


def reference_frames(tokenizer: DnaTokenizer) -> list[PreparedFrame]:
    """The frames of the reference, prepared from its sequences as any record is.

    Raises:
        CoreError: they are not the ones that the original found.
    """
    found: dict[str, PreparedFrame] = {}
    for record in _reference()["records"]:
        prepared = prepare(record["id"], record["sequence"], CHUNK_SIZE, tokenizer)
        found |= {chunk_name(record["id"], frame.chunk) + frame.label: frame for frame in prepared.frames}
    original = {frame["id"]: frame for frame in _reference()["frames"]}
    if found.keys() != original.keys():
        raise CoreError("the reference's frames are not found in its sequences: this installation is damaged")
    for name, frame in original.items():
        if not np.array_equal(found[name].protein_ids, esm2_token_ids(frame["aa"])):
            raise CoreError(f"frame {name} has another protein than in the reference: damaged installation")
    return [found[name] for name in original]


@cache
def _reference() -> dict[str, Any]:
    text = (files("virnucpro_core") / "data" / "reference" / "frames.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def _distance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
