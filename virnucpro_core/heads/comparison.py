"""Measures heads on held-out records, on the features of one file or of two, and puts one into a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from virnucpro_core.bundle.bundle import Bundle, write_bundle
from virnucpro_core.bundle.manifest import HeadConfig
from virnucpro_core.bundle.weights import fill
from virnucpro_core.heads.feature_file import FeatureFile
from virnucpro_core.heads.head_metrics import compare, fitted_temperature, measure
from virnucpro_core.heads.splits import Part
from virnucpro_core.heads.training import head_margins
from virnucpro_core.models.classifier import Head


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A head that is measured.

    Attributes:
        title: what the report calls it.
        head: of temperature 1.
        home: the file whose features it was made for; None for a head that was there before.
        temperature: None to fit it on the chunks held out, with the features of its home.
    """

    title: str
    head: Head
    home: str | None
    temperature: float | None = None


def base_candidate(bundle: Bundle) -> Candidate:
    """The head that a bundle has; nothing else of it is loaded."""
    manifest = bundle.manifest
    head = head_of(bundle.tensors("head"), manifest.feature_dim, manifest.head.hidden)
    return Candidate(f"base ({manifest.id})", head, None, manifest.temperature)


def head_of(tensors: Mapping[str, Tensor], features: int, hidden: int) -> Head:
    """A head, of temperature 1, with these weights by its own names; raises WeightsError if they do not fit."""
    with torch.device("meta"):
        head = Head(features, hidden)
    return fill("head", head, tensors, torch.device("cpu"), torch.float32)


def study(
    files: Mapping[str, FeatureFile], candidates: list[Candidate], part: Part
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure every head on the features of every file.

    Args:
        files: one, or two of the same frames, by name.
        candidates: the heads; those with a home come with a fitted temperature.
        part: the records to measure on.

    Returns:
        the temperature of each head by its title, and the report: `measured`, a list of figures (see
        `virnucpro_core.heads.head_metrics.measure`), and `compared`, pairs of ways to score: each new head at its home
        against the other at its own, and against itself on the other file.
    """
    margins = {
        (candidate.title, name): head_margins(candidate.head, file.features, part.rows)
        for candidate in candidates
        for name, file in files.items()
    }
    temperatures = {
        candidate.title: fitted_temperature(margins[candidate.title, candidate.home], part)
        if candidate.temperature is None and candidate.home is not None
        else candidate.temperature or 1.0
        for candidate in candidates
    }
    measured = [
        {"head": title, "features": name, "temperature": temperatures[title]}
        | measure(found, part, temperatures[title])
        for (title, name), found in margins.items()
    ]
    homes = {candidate.home: candidate.title for candidate in candidates if candidate.home is not None}
    pairs = []
    if len(homes) > 1:
        one, other = homes
        pairs = [((homes[one], one), (homes[other], other))]
        pairs += [((homes[a], a), (homes[a], b)) for a, b in permutations(homes)]
    compared = [
        {"one": _way(a), "other": _way(b)}
        | compare(margins[a] / temperatures[a[0]], margins[b] / temperatures[b[0]], part)
        for a, b in pairs
    ]
    return temperatures, {"measured": measured, "compared": compared}


def _way(key: tuple[str, str]) -> dict[str, str]:
    return {"head": key[0], "features": key[1]}


def bundle_with_head(
    base: Bundle,
    output: Path,
    id: str,
    description: str,
    head: Mapping[str, Tensor],
    hidden: int,
    temperature: float,
    training: Mapping[str, Any],
    validation: Mapping[str, Any],
) -> Bundle:
    """A bundle with the encoders and the tokenizer of another one, whose files are copied, and a head of its own.

    Args:
        base: whose features the head is for.
        output: a folder that does not exist yet; it appears when it is complete.
        head: its weights by name, of `hidden` values in the middle.
        id, description, temperature, training, validation: for the manifest.

    Raises:
        BundleError: `output` exists.
        OSError: it cannot be written.
    """
    manifest = base.manifest
    return write_bundle(
        output,
        id=id,
        description=description,
        expected_length=manifest.expected_length,
        esm2=manifest.esm2,
        dnabert_s=manifest.dnabert_s,
        head=HeadConfig(hidden),
        licence=manifest.licence,
        tensors={"esm2": base.file("esm2"), "dnabert_s": base.file("dnabert_s"), "head": head},
        tokenizer=base.file("tokenizer"),
        temperature=temperature,
        training=training,
        validation=validation,
    )
