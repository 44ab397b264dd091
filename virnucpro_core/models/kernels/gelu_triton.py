# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""`gelu` as one Triton kernel, in place."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048


@triton.jit
def gelu_of(x):
    """gelu of fp32 values.

    The normal distribution's tail is erfc(z) / 2 with z = |x| / sqrt(2), by Abramowitz and Stegun 7.1.26
    (absolute error of erf below 1.5e-7). Where x is negative the tail is used as it is: 1 + erf(x) would cancel.
    """
    z = tl.abs(x) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * z)
    p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    tail = 0.5 * p * tl.exp2(-z * z * 1.4426950408889634)
    return x * tl.where(x < 0, tail, 1.0 - tail)


@triton.jit
def _gelu(x_ptr, count, BLOCK: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = places < count
    x = tl.load(x_ptr + places, mask=real, other=0.0).to(tl.float32)
    tl.store(x_ptr + places, gelu_of(x).to(x_ptr.dtype.element_ty), mask=real)


def gelu(x: Tensor) -> Tensor:
    """As `gelu.gelu`, for fp16 and bf16; contiguous, on a CUDA device."""
    _gelu[(triton.cdiv(x.numel(), _BLOCK),)](x, x.numel(), _BLOCK, num_warps=4)
    return x
