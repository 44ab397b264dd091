# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""`rotate` as one Triton kernel, in place."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def turned(first, second, cos, sin):
    """Both halves of fp32 heads, rotated."""
    return first * cos - second * sin, second * cos + first * sin


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["positions_ptr"])
def _rotate(
    qkv_ptr,  # float [rows, 3, HEADS, 2 * HALF]
    cos_ptr,  # float32 [positions, HALF]
    sin_ptr,
    positions_ptr,  # int [rows]
    rows,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)  # of q and k, which lie side by side
    column = tl.arange(0, HALF_BLOCK)
    real_row = row < rows
    real_column = column < HALF
    real_table = real_row[:, None] & real_column[None, :]
    position = tl.load(positions_ptr + row, mask=real_row, other=0)
    place = position[:, None] * HALF + column[None, :]
    cos = tl.load(cos_ptr + place, mask=real_table, other=0.0)[:, None, :]
    sin = tl.load(sin_ptr + place, mask=real_table, other=0.0)[:, None, :]
    real = real_table[:, None, :] & (head < 2 * HEADS)[None, :, None]
    at = qkv_ptr + row.to(tl.int64)[:, None, None] * (6 * HEADS * HALF)
    at = at + head[None, :, None] * (2 * HALF) + column[None, None, :]
    first = tl.load(at, mask=real, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=real, other=0.0).to(tl.float32)
    first, second = turned(first, second, cos, sin)
    tl.store(at, first.to(qkv_ptr.dtype.element_ty), mask=real)
    tl.store(at + HALF, second.to(qkv_ptr.dtype.element_ty), mask=real)


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """As `rotation.rotate`; all tensors contiguous, on one CUDA device."""
    rows, _, heads, size = qkv.shape
    half = size // 2
    half_block = triton.next_power_of_2(half)
    per_program, heads_block = (1, 32) if half_block >= 32 else (4, 16)
    grid = (triton.cdiv(rows, per_program), triton.cdiv(2 * heads, heads_block))
    _rotate[grid](
        qkv, cos, sin, positions, rows, heads, half, half_block, per_program, heads_block, num_warps=4
    )
    return qkv
