"""Precisions: a number format is one object here.

Another one is one more `Precision` in `PRECISIONS` (and its name in `virnucpro_core.options`): the type of weights and
activations, the matrix products that are in fp8 instead, how far its results may lie from the references, and which
devices cannot serve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from virnucpro_core.models.kernels.fp8 import fp8_refusal

Refusal = Callable[[torch.device, int], str | None]
"""(device, ESM-2's width) -> why it cannot serve, and what to use instead; None if it can."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far results may lie from the references.

    Attributes:
        self_test: relative L2 distance of a protein's pooled representation from fair-esm's own forward on the same
            weights.
        features: relative L2 distance of a frame's features from the original VirNucPro's.
        score: difference of a frame's virus score from the original VirNucPro's.
        token_factor: a token's representation may lie so many times as far off as a pooled one.
    """

    self_test: float
    features: float
    score: float
    token_factor: float = 1.0

    @property
    def self_test_token(self) -> float:
        """As `self_test`, of a token."""
        return self.token_factor * self.self_test


def _everywhere(_: torch.device, __: int) -> str | None:
    return None


def _gpu_only(device: torch.device, _: int) -> str | None:
    return "needs a GPU: on a CPU use fp32 or bf16" if device.type == "cpu" else None


def _fp8_gpu_only(device: torch.device, width: int) -> str | None:
    if reason := _gpu_only(device, width):
        return reason
    reason = fp8_refusal(device, torch.float16, width)
    return f"{reason}: use fp16" if reason else None


@dataclass(frozen=True, slots=True)
class Precision:
    """One number format.

    Attributes:
        name: as in `virnucpro_core.options`.
        dtype: of weights and activations, but for the products that are in fp8.
        tolerance: of its results.
        fp8: which products of ESM-2's layers are in fp8 on the packed path, of `virnucpro_core.models.esm2_flash.
            Products`. All else is in `dtype`: the other products, attention, DNABERT-S, ESM-2's standard path.
        refusal: which devices cannot serve.
    """

    name: str
    dtype: torch.dtype
    tolerance: Tolerance
    fp8: frozenset[str] = frozenset()
    refusal: Refusal = _everywhere


FP32 = Precision("fp32", torch.float32, Tolerance(self_test=1e-5, features=1e-3, score=1e-2))
_WORST_TOKEN = 4.0
"""In 16 bits: of hundreds of tokens the worst decides, while the classifier sees means over proteins. The bundled
nano-500 has 0.011 and 0.0014 in fp16 on an H200."""
FP16 = Precision(
    "fp16",
    torch.float16,
    Tolerance(self_test=1e-2, features=1e-2, score=2e-2, token_factor=_WORST_TOKEN),
    refusal=_gpu_only,
)
BF16 = Precision(
    "bf16",
    torch.bfloat16,
    Tolerance(self_test=8e-2, features=8e-2, score=1e-1, token_factor=_WORST_TOKEN),
)
FP8_FFN = Precision(
    "fp8-ffn",
    torch.float16,
    Tolerance(self_test=3e-1, features=2e-1, score=2e-1),
    frozenset({"fc1", "fc2"}),
    _fp8_gpu_only,
)
FP8 = Precision(
    "fp8",
    torch.float16,
    Tolerance(self_test=4e-1, features=3e-1, score=3e-1),
    frozenset({"qkv", "fc1", "fc2"}),
    _fp8_gpu_only,
)

PRECISIONS = {precision.name: precision for precision in (FP32, FP16, BF16, FP8_FFN, FP8)}
"""By name."""
