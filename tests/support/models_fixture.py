"""Tiny random models and bundles, the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import esm
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.support.small_tokenizer import write_tokenizer
from virnucpro_core.bundle.bundle import Bundle, write_bundle
from virnucpro_core.bundle.manifest import DnabertSConfig, Esm2Config, HeadConfig, Manifest
from virnucpro_core.bundle.weights import weights_of
from virnucpro_core.models.classifier import Head
from virnucpro_core.models.dnabert_s import DnabertS
from virnucpro_core.models.esm2_weights import esm2_weights
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.scoring.packing import pack
from virnucpro_core.sequence.prepare import PreparedFrame
from virnucpro_core.sequence.tokens import ESM2_CLS, ESM2_EOS, ESM2_MASK

ESM2_SHAPES = (Esm2Config(2, 32, 2), Esm2Config(3, 96, 4), Esm2Config(4, 192, 6), Esm2Config(1, 128, 1))
"""Heads of 16, 24, 32 and 128."""
DNABERT_S_CONFIG = DnabertSConfig(layers=3, dim=96, heads=6, intermediate=160, vocab=32)
UNEQUAL_LENGTHS = (5, 3, 170, 41, 32, 33, 500, 4, 64, 31)
"""Tokens: shorter than a padding step, exactly one, one more, and far longer than the others."""


def random_esm2(config: Esm2Config, seed: int = 0) -> esm.ESM2:
    """fair-esm's model as newly made, with biases and norms shaken so that none is without effect."""
    torch.manual_seed(seed)
    model = esm.ESM2(config.layers, config.dim, config.heads).eval()
    shake(model)
    return model


def random_dnabert_s(config: DnabertSConfig = DNABERT_S_CONFIG, seed: int = 0) -> DnabertS:
    """A model with weights large enough for attention to matter."""
    torch.manual_seed(seed)
    model = DnabertS(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    shake(model)
    return model


def shake(model: nn.Module) -> None:
    """Add a little noise to every vector of weights (biases, norms)."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def random_proteins(lengths: Sequence[int], seed: int = 0, masks: bool = False) -> list[NDArray[np.int32]]:
    """Token ids of proteins, cls and eos included in `lengths` (>= 3); with `masks`, some residues masked."""
    rng = np.random.default_rng(seed)
    proteins = []
    for length in lengths:
        residues = rng.integers(4, 24, length - 2)
        if masks:
            residues[rng.random(length - 2) < 0.2] = ESM2_MASK
        proteins.append(np.array([ESM2_CLS, *residues, ESM2_EOS], dtype=np.int32))
    return proteins


def random_dna(lengths: Sequence[int], seed: int = 0, vocabulary: int = 32) -> list[NDArray[np.int32]]:
    """Token ids of nucleotide sequences."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, length).astype(np.int32) for length in lengths]


def packed(segments: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor, int]:
    """The arguments of a packed forward."""
    tokens = pack(segments)
    return torch.from_numpy(tokens.ids), torch.from_numpy(tokens.cu_seqlens), tokens.max_seqlen


def layout_of(segments: Sequence[NDArray[np.int32]], device: str = "cpu") -> PackedLayout:
    """Their layout."""
    tokens = pack(segments)
    return PackedLayout.build(tokens.cu_seqlens, len(tokens.ids), device)


def by_segment(rows: Tensor, segments: Sequence[NDArray[np.int32]]) -> list[Tensor]:
    """Packed rows cut apart."""
    return list(torch.split(rows, [len(segment) for segment in segments]))


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """The largest relative L2 distance of a row; NaN if there is one anywhere."""
    actual, expected = actual.double().cpu(), expected.double().cpu()
    distances = (actual - expected).norm(dim=-1)
    return float(torch.where(distances == 0, 0.0, distances / expected.norm(dim=-1)).max())


def error_ratio(actual: Tensor, original: Tensor, truth: Tensor) -> float:
    """How many times the original's error ours is, both computed in one type and measured by `relative_l2`.

    Args:
        actual: what our code computes.
        original: what the code that it has to agree with computes in the same type.
        truth: the original in float64.
    """
    return relative_l2(actual, truth) / relative_l2(original, truth)


def random_frames(count: int, seed: int = 0, longest: int = 120) -> list[PreparedFrame]:
    """Frames of unequal lengths as `prepare` makes them, of random tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest, size=(2, count))
    proteins, dna = random_proteins(lengths[0], seed), random_dna(lengths[1], seed, vocabulary=15)
    return [PreparedFrame(0, "F1", protein, ids) for protein, ids in zip(proteins, dna, strict=True)]


def random_bundle(path: Path, seed: int = 0, dtype: torch.dtype = torch.float16) -> Bundle:
    """A whole bundle: tiny models, and the tests' small tokenizer."""
    esm2_config, head_config = ESM2_SHAPES[1], HeadConfig(hidden=24)
    dna_config = DnabertSConfig(layers=2, dim=64, heads=4, intermediate=96, vocab=15)
    torch.manual_seed(seed)
    head = Head(dna_config.dim + esm2_config.dim, head_config.hidden)
    mean, variance = head.norm.running_mean, head.norm.running_var
    assert mean is not None
    assert variance is not None
    with torch.no_grad():
        mean.normal_()
        variance.uniform_(0.5, 2)
    draft = Manifest(
        id=f"random-{seed}",
        description="random weights for tests",
        expected_length=500,
        esm2=esm2_config,
        dnabert_s=dna_config,
        head=head_config,
        licence="MIT",
        training={"seed": seed},
    )
    tensors = {
        "esm2": esm2_weights(random_esm2(esm2_config, seed), dtype),
        "dnabert_s": weights_of(random_dnabert_s(dna_config, seed), dtype),
        "head": weights_of(head, torch.float32),
    }
    return write_bundle(path, draft, tensors, write_tokenizer(path.parent / "tokenizer.json"))
