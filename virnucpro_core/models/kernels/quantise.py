"""Rows in fp8 (e4m3) with one fp32 scale each (Micikevicius et al., "FP8 formats for deep learning", 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest value of e4m3: a row's largest magnitude is mapped to it."""
SMALLEST_MAGNITUDE = 1e-12
"""A row of zeros gets this as its largest magnitude, so that its scale is not zero."""


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise: the plain form of `quantise_triton.quantise_rows`.

    Args:
        x: float [rows, dim].

    Returns:
        fp8 [rows, dim] and float32 scales [rows]; their product is `x`, rounded. A row with a NaN or an infinite
        value has a NaN afterwards.
    """
    x = x.float()
    scales = x.abs().amax(dim=1).clamp(min=SMALLEST_MAGNITUDE) / LARGEST
    return (x / scales[:, None]).to(FP8), scales


def gelu_quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `quantise_rows` of gelu(x), which is never rounded to 16 bits in between."""
    return quantise_rows(F.gelu(x.float()))
