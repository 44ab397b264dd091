"""Residual addition and LayerNorm in one step, on an fp32 residual stream (Ba, Kiros and Hinton, 2016)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from virnucpro_core.models.kernels.quantise import quantise_rows


def add_norm(
    x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """x += y, then LayerNorm(x) in another type: the plain form of `add_norm_triton.add_norm`.

    Args:
        x: float32 [rows, dim], changed in place.
        y: float [rows, dim] of any type, what a sub-layer adds to the stream; None adds nothing.
        weight, bias: float [dim] of any type.
        eps: added to the variance.
        dtype: of the result.

    Returns:
        [rows, dim]; mean, variance and scaling in fp32, rounded once.
    """
    if y is not None:
        x += y
    return F.layer_norm(x, (x.shape[1],), weight.float(), bias.float(), eps).to(dtype)


def add_norm_quantise(
    x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As `add_norm`, but the result as `quantise_rows` gives it; never rounded to 16 bits in between."""
    return quantise_rows(add_norm(x, y, weight, bias, eps, torch.float32))
