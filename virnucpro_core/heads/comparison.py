"""Compares heads on held-out records, on the features of one file or of two, and writes one into a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from virnucpro_core.bundle.bundle import Bundle, write_bundle
from virnucpro_core.bundle.manifest import Manifest
from virnucpro_core.bundle.weights import fill
from virnucpro_core.heads.feature_file import FeatureFile
from virnucpro_core.heads.head_metrics import agreement, fitted_temperature, head_metrics
from virnucpro_core.heads.splits import Part
from virnucpro_core.heads.training import head_margins
from virnucpro_core.models.classifier import Head
from virnucpro_core.models.unfilled import unfilled


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A head in a comparison.

    Attributes:
        title: what the report calls it.
        head: of temperature 1.
        trained_on: name of the feature file that it was trained on; None for the base's head.
        temperature: None to fit it on the held-out chunks, with the features of `trained_on`.
    """

    title: str
    head: Head
    trained_on: str | None
    temperature: float | None = None


def base_candidate(bundle: Bundle) -> Candidate:
    """The head of a bundle; nothing else of it is loaded."""
    manifest = bundle.manifest
    head = head_of(bundle.tensors("head"), manifest.feature_dim, manifest.head.hidden)
    return Candidate(f"base ({manifest.id})", head, None, manifest.temperature)


def head_of(tensors: Mapping[str, Tensor], features: int, hidden: int) -> Head:
    """A head, of temperature 1, with these weights by its own names; raises WeightsError if they do not fit."""
    with unfilled():
        head = Head(features, hidden)
    return fill("head", head, tensors, torch.device("cpu"), torch.float32)


def compare_heads(
    files: Mapping[str, FeatureFile], candidates: list[Candidate], part: Part
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure every head on the features of every file.

    Args:
        files: one, or two of the same frames, by name.
        candidates: the heads.
        part: the records to measure on.

    Returns:
        the temperature of each head by its title, and the report: `measured`, the metrics of each head on each file
        (see `virnucpro_core.heads.head_metrics.head_metrics`), and `compared`, the agreement of pairs: each new head
        on its own file against the other on its own, and against itself on the other file.
    """
    margins = {
        (candidate.title, name): head_margins(candidate.head, file.features, part.rows)
        for candidate in candidates
        for name, file in files.items()
    }
    temperatures = {
        candidate.title: fitted_temperature(margins[candidate.title, candidate.trained_on], part)
        if candidate.temperature is None and candidate.trained_on is not None
        else candidate.temperature or 1.0
        for candidate in candidates
    }
    measured = [
        {"head": title, "features": name, "temperature": temperatures[title]}
        | head_metrics(found, part, temperatures[title])
        for (title, name), found in margins.items()
    ]
    trained = {
        candidate.trained_on: candidate.title for candidate in candidates if candidate.trained_on is not None
    }
    pairs = []
    if len(trained) > 1:
        one, other = trained
        pairs = [((trained[one], one), (trained[other], other))]
        pairs += [((trained[a], a), (trained[a], b)) for a, b in permutations(trained)]
    compared = [
        {"one": _named(a), "other": _named(b)}
        | agreement(margins[a] / temperatures[a[0]], margins[b] / temperatures[b[0]], part)
        for a, b in pairs
    ]
    return temperatures, {"measured": measured, "compared": compared}


def _named(key: tuple[str, str]) -> dict[str, str]:
    return {"head": key[0], "features": key[1]}


def bundle_with_head(base: Bundle, output: Path, draft: Manifest, head: Mapping[str, Tensor]) -> Bundle:
    """A bundle with the encoders and the tokenizer of another one, whose files are copied, and another head.

    Args:
        base: whose features the head is for.
        output: a folder that does not exist yet; it appears when it is complete.
        draft: the manifest, but for its files: that of the base with what differs.
        head: its weights by name.

    Raises:
        BundleError: `output` exists.
        OSError: it cannot be written.
    """
    tensors: dict[str, Mapping[str, Tensor] | Path] = {
        role: base.file(role) for role in ("esm2", "dnabert_s")
    }
    tensors["head"] = head
    return write_bundle(output, draft, tensors, base.file("tokenizer"))
