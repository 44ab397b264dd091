# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""`add_norm` as one Triton kernel: one program a row, which is read once and stays in registers.

A row's bits depend on the row alone: its sums have one order, fixed by the width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from virnucpro_core.models.kernels.quantise import FP8
from virnucpro_core.models.kernels.quantise_triton import row_scale
from virnucpro_core.models.kernels.tiles import two_parts


@triton.jit
def _add_norm(
    x_ptr,  # float32 [rows, WIDTH], in and out
    y_ptr,  # float [rows, WIDTH], not read unless ADD
    weight_ptr,  # float [WIDTH]
    bias_ptr,  # float [WIDTH]
    out_ptr,  # float or fp8 [rows, WIDTH]
    scales_ptr,  # float32 [rows], not written unless QUANTISE
    eps,
    WIDTH: tl.constexpr,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
    ADD: tl.constexpr,
    QUANTISE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * WIDTH
    y_ptr += row * WIDTH
    out_ptr += row * WIDTH
    a = tl.arange(0, FIRST)
    b = FIRST + tl.arange(0, REST)
    real = b < WIDTH
    xa = tl.load(x_ptr + a)
    xb = tl.load(x_ptr + b, mask=real, other=0.0)
    if ADD:
        xa += tl.load(y_ptr + a).to(tl.float32)
        xb += tl.load(y_ptr + b, mask=real, other=0.0).to(tl.float32)
        tl.store(x_ptr + a, xa)
        tl.store(x_ptr + b, xb, mask=real)
    mean = (tl.sum(xa, 0) + tl.sum(xb, 0)) / WIDTH
    xa -= mean
    xb = tl.where(real, xb - mean, 0.0)
    variance = (tl.sum(xa * xa, 0) + tl.sum(xb * xb, 0)) / WIDTH
    inverse = 1.0 / tl.sqrt_rn(variance + eps)
    weight_a = tl.load(weight_ptr + a).to(tl.float32)
    weight_b = tl.load(weight_ptr + b, mask=real, other=0.0).to(tl.float32)
    bias_a = tl.load(bias_ptr + a).to(tl.float32)
    bias_b = tl.load(bias_ptr + b, mask=real, other=0.0).to(tl.float32)
    xa = xa * inverse * weight_a + bias_a
    xb = xb * inverse * weight_b + bias_b
    if QUANTISE:
        scale = row_scale(xa, xb)
        tl.store(scales_ptr + row, scale)
        xa = xa / scale
        xb = xb / scale
    tl.store(out_ptr + a, xa.to(out_ptr.dtype.element_ty))
    tl.store(out_ptr + b, xb.to(out_ptr.dtype.element_ty), mask=real)


def add_norm(
    x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """As `add_norm.add_norm`; all tensors contiguous, on one CUDA device."""
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    _launch(x, y, weight, bias, eps, out, None)
    return out


def add_norm_quantise(
    x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As `add_norm.add_norm_quantise`; all tensors contiguous, on one CUDA device."""
    out = torch.empty(x.shape, dtype=FP8, device=x.device)
    scales = torch.empty(len(x), dtype=torch.float32, device=x.device)
    _launch(x, y, weight, bias, eps, out, scales)
    return out, scales


def _launch(
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    out: Tensor,
    scales: Tensor | None,
) -> None:
    rows, width = x.shape
    _add_norm[(rows,)](
        x,
        x if y is None else y,
        weight,
        bias,
        out,
        x if scales is None else scales,
        eps,
        width,
        *two_parts(width),
        y is not None,
        scales is not None,
        num_warps=8 if width > 512 else 1,
    )
