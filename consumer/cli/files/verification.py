"""What `virnucpro models verify` does and shows. Loads the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from consumer.config.settings import ModelSettings
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.evaluation.verification import Comparison, compare_with_original, not_comparable
from virnucpro_core.models.engine import Engine


@dataclass(frozen=True, slots=True)
class Verification:
    """A bundle whose files are right, loaded and self-tested.

    Attributes:
        bundle, engine: the model.
        comparison: with the original VirNucPro; None where there is nothing to compare with.
        why_not: then the reason.
    """

    bundle: Bundle
    engine: Engine
    comparison: Comparison | None
    why_not: str | None

    @property
    def agrees(self) -> bool:
        """False if it was compared with the original and differs."""
        return self.comparison is None or self.comparison.agrees

    def rows(self) -> dict[str, str]:
        """The findings, for people."""
        info, manifest = self.engine.info, self.bundle.manifest
        total = sum(entry.bytes for entry in manifest.files.values())
        rows = {
            "model": f"{info.model_id} ({self.bundle.path})",
            "files": f"{len(manifest.files)} files, {total:,} bytes: each has the sha256 of the manifest",
            "loads": f"on {info.device} in {info.precision}, attention {info.attention} ({info.attention_backend})",
        }
        if (test := info.self_test) is not None:
            rows["self-test"] = (
                f"passed: {test.per_token:.1e} per token, {test.pooled:.1e} pooled, allowed {test.token_tolerance:.0e} "
                f"and {test.tolerance:.0e}"
            )
        if self.comparison is None:
            return rows | {"original": f"not compared: {self.why_not}"}
        found = self.comparison
        difference = found.score_difference
        scores = (
            "scores not compared, they are of the classifier for 500 bases"
            if difference is None
            else f"scores differ by {difference:.1e} at most (allowed {found.score_tolerance:.0e}), "
            f"{found.verdicts_equal} of {len(found.frames)} verdicts are the same"
        )
        return rows | {
            "original": f"{'agrees' if found.agrees else 'DIFFERS'}: relative L2 distance of the features "
            f"{found.distance:.1e} at most (allowed {found.tolerance:.0e}), cosine {found.cosine:.6f} at least; "
            + scores
        }

    def frame_lines(self) -> Iterator[str]:
        """A line for each frame that was compared, under a heading."""
        if self.comparison is None:
            return
        yield ""
        yield (
            f"{'frame':32} {'DNABERT-S':>10} {'ESM-2':>10} {'cosine':>9} {'virus score':>12} {'original':>9}  verdict"
        )
        for frame in self.comparison.frames:
            line = f"{frame.frame:32} {frame.dna_distance:10.1e} {frame.protein_distance:10.1e} {frame.cosine:9.6f}"
            if frame.virus_score is not None:
                same = "same" if frame.verdict == frame.original_verdict else f"not {frame.original_verdict}"
                line += (
                    f" {frame.virus_score:12.6f} {frame.original_virus_score:9.6f}  {frame.verdict} ({same})"
                )
            yield line

    def as_dict(self) -> dict[str, Any]:
        """The findings, for JSON."""
        return {
            "path": str(self.bundle.path),
            **asdict(self.engine.info),
            "original": self.comparison.as_dict() if self.comparison else None,
            "not_compared": self.why_not,
        }


def verification(settings: ModelSettings) -> Verification:
    """Check the model that the settings name: files, loading, self-test, and the original where it can be.

    Raises:
        BundleError, CoreError, BackendUnavailable: the first of them that fails, in one line.
    """
    bundle = Bundle.load(find_bundle(settings.model))
    engine = Engine(
        bundle,
        device=settings.device,
        precision=settings.precision,
        attention_backend=settings.attention_backend,
        v1_attention=settings.v1_attention,
    )
    why_not = not_comparable(bundle.manifest)
    comparison = None
    if why_not is None:
        comparison = compare_with_original(engine, bundle.manifest, engine.precision.tolerance)
    return Verification(bundle, engine, comparison, why_not)
