"""Precisions: a number format is one object here.

Another one, fp8 for example, is one more `Precision` in `PRECISIONS` (and its name in `virnucpro_core.options`): the
type of its activations, the module that it puts in the place of a linear layer, and how far its results may lie from
the references.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

MakeLinear = Callable[[nn.Linear], nn.Module]
"""Gives what computes x [rows, in] -> [rows, out] in the place of a linear layer that has its weights already."""

Refusal = Callable[[torch.device], str | None]
"""Why a device can't serve, and what to use instead; None if it can."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far results may lie from the references.

    Attributes:
        self_test: relative L2 distance of a token's or a protein's representation from fair-esm's own forward on the
            same weights.
        features: relative L2 distance of a frame's features from the original VirNucPro's.
        score: difference of a frame's virus score from the original VirNucPro's.
    """

    self_test: float
    features: float
    score: float


def same_linear(linear: nn.Linear) -> nn.Module:
    """The linear layer itself."""
    return linear


def _everywhere(_: torch.device) -> str | None:
    return None


def _gpu_only(device: torch.device) -> str | None:
    return "needs a GPU: on a CPU use fp32 or bf16" if device.type == "cpu" else None


@dataclass(frozen=True, slots=True)
class Precision:
    """One number format.

    Attributes:
        name: as in `virnucpro_core.options`.
        dtype: of weights and activations.
        tolerance: of its results.
        linear: what it puts in the place of each linear layer of both encoders on the packed path. ESM-2's standard
            path, fair-esm's own forward, and the head keep theirs.
        refusal: which devices can't serve.
    """

    name: str
    dtype: torch.dtype
    tolerance: Tolerance
    linear: MakeLinear = same_linear
    refusal: Refusal = _everywhere


FP32 = Precision("fp32", torch.float32, Tolerance(self_test=1e-5, features=1e-3, score=1e-2))
FP16 = Precision(
    "fp16", torch.float16, Tolerance(self_test=1e-2, features=1e-2, score=2e-2), refusal=_gpu_only
)
BF16 = Precision("bf16", torch.bfloat16, Tolerance(self_test=8e-2, features=8e-2, score=1e-1))

PRECISIONS = {precision.name: precision for precision in (FP32, FP16, BF16)}
"""By name."""
