# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""`quantise_rows` and `gelu_quantise` as one Triton kernel: one program a row, which is read once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from virnucpro_core.models.kernels.gelu_triton import gelu_of
from virnucpro_core.models.kernels.quantise import FP8, LARGEST, SMALLEST_MAGNITUDE
from virnucpro_core.models.kernels.tiles import two_parts

_LARGEST = tl.constexpr(LARGEST)
_SMALLEST_MAGNITUDE = tl.constexpr(SMALLEST_MAGNITUDE)


@triton.jit
def row_scale(a, b):
    """The fp8 scale of a row in two parts, fp32."""
    magnitude = tl.maximum(tl.max(tl.abs(a), 0), tl.max(tl.abs(b), 0))
    return tl.maximum(magnitude, _SMALLEST_MAGNITUDE) / _LARGEST


@triton.jit
def _quantise_rows(
    x_ptr,  # float [rows, WIDTH]
    out_ptr,  # fp8 [rows, WIDTH]
    scales_ptr,  # float32 [rows]
    WIDTH: tl.constexpr,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
    GELU: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * WIDTH
    out_ptr += row * WIDTH
    a = tl.arange(0, FIRST)
    b = FIRST + tl.arange(0, REST)
    real = b < WIDTH
    xa = tl.load(x_ptr + a).to(tl.float32)
    xb = tl.load(x_ptr + b, mask=real, other=0.0).to(tl.float32)
    if GELU:
        xa = gelu_of(xa)
        xb = gelu_of(xb)
    scale = row_scale(xa, xb)
    tl.store(scales_ptr + row, scale)
    tl.store(out_ptr + a, (xa / scale).to(out_ptr.dtype.element_ty))
    tl.store(out_ptr + b, (xb / scale).to(out_ptr.dtype.element_ty), mask=real)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `quantise.quantise_rows`; contiguous, on a CUDA device."""
    return _launch(x, gelu=False)


def gelu_quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `quantise.gelu_quantise`; contiguous, on a CUDA device."""
    return _launch(x, gelu=True)


def _launch(x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    rows, width = x.shape
    out = torch.empty(x.shape, dtype=FP8, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    _quantise_rows[(rows,)](x, out, scales, width, *two_parts(width), gelu, num_warps=8 if width > 512 else 1)
    return out, scales
