# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""`segment_means` as one Triton kernel: one program a segment and block of columns.

Rows are added up in fp32 in tiles that are counted from the segment's first row: a segment's bits depend on the
segment alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 16
_COLUMNS = 128


@triton.jit(do_not_specialize_on_alignment=["bounds_ptr"])
def _segment_means(
    rows_ptr,  # float [rows, WIDTH]
    bounds_ptr,  # int [segments + 1]
    out_ptr,  # float32 [segments, WIDTH]
    WIDTH: tl.constexpr,
    SKIP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    segment = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real = column < WIDTH
    first = tl.load(bounds_ptr + segment).to(tl.int64) + SKIP
    count = (tl.load(bounds_ptr + segment + 1).to(tl.int64) - SKIP - first).to(tl.int32)
    totals = tl.zeros([ROWS, COLUMNS], tl.float32)
    for begin in range(0, count, ROWS):
        row = begin + tl.arange(0, ROWS)
        at = rows_ptr + (first + row)[:, None] * WIDTH + column[None, :]
        values = tl.load(at, mask=(row < count)[:, None] & real[None, :], other=0.0)
        totals += values.to(tl.float32)
    # Rounded as IEEE wants it: a sum of 16-bit values is often exact, and then this is all of the error.
    means = tl.div_rn(tl.sum(totals, 0), tl.zeros([COLUMNS], tl.float32) + count)
    tl.store(out_ptr + segment.to(tl.int64) * WIDTH + column, means, mask=real)


def segment_means(rows: Tensor, bounds: Tensor, skip: int) -> Tensor:
    """As `segment_means.segment_means`; all tensors contiguous, on one CUDA device."""
    segments, width = len(bounds) - 1, rows.shape[1]
    out = torch.empty(segments, width, dtype=torch.float32, device=rows.device)
    grid = (segments, triton.cdiv(width, _COLUMNS))
    _segment_means[grid](rows, bounds, out, width, skip, _ROWS, _COLUMNS, num_warps=4)
    return out
