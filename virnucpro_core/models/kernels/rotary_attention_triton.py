# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""Rotary embedding and attention of short segments as one Triton kernel (Dao et al., "FlashAttention", 2022).

A program has one tile of queries of one segment and one head, and walks over the segment's keys tile by tile from
the first. Queries are rotated once, keys as they are loaded: for a few tiles that costs less than a separate pass
over q and k. Tiles are counted from the segment's own start, so that a segment's bits depend on the segment alone.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from virnucpro_core.models.kernels.rotation_triton import turned

QUERIES = 64
_KEYS = 64
_LOG2_E = 1.4426950408889634


@triton.jit
def _load_turned(at, cos_ptr, sin_ptr, position, column, is_row, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """Rotated halves [tile, BLOCK] of the heads at `at`, in their own type; zeros beyond HALF."""
    place = position[:, None] * HALF + column[None, :]
    real = is_row[:, None]
    if BLOCK > HALF:
        real = real & (column < HALF)[None, :]
    cos = tl.load(cos_ptr + place, mask=real, other=0.0)
    sin = tl.load(sin_ptr + place, mask=real, other=0.0)
    first = tl.load(at, mask=real, other=0.0)
    second = tl.load(at + HALF, mask=real, other=0.0)
    turned_first, turned_second = turned(first.to(tl.float32), second.to(tl.float32), cos, sin)
    return turned_first.to(first.dtype), turned_second.to(second.dtype)


@triton.jit
def _rotary_attention(
    qkv_ptr,  # float16 or bfloat16 [rows, 3, HEADS, 2 * HALF]
    cos_ptr,  # float32 [positions, HALF]
    sin_ptr,
    bounds_ptr,  # int32 [segments + 1]
    tiles_ptr,  # int32 [tiles, 2]: segment, first query in it
    out_ptr,  # as qkv [rows, HEADS, 2 * HALF]
    scale,  # of the scores, times log2(e): exponents are of two
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,  # HALF, or more: a power of two, and no fewer than the 16 that a product needs
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    SIZE: tl.constexpr = 2 * HALF
    WIDTH: tl.constexpr = HEADS * SIZE
    tile = tl.program_id(0)
    head = tl.program_id(1)
    segment = tl.load(tiles_ptr + 2 * tile)
    start = tl.load(bounds_ptr + segment).to(tl.int64)
    length = (tl.load(bounds_ptr + segment + 1) - start).to(tl.int32)
    half = tl.arange(0, BLOCK)
    whole = tl.arange(0, 2 * BLOCK)
    q_at = qkv_ptr + start * 3 * WIDTH + head * SIZE
    k_at = q_at + WIDTH
    v_at = k_at + WIDTH

    query = tl.load(tiles_ptr + 2 * tile + 1) + tl.arange(0, QUERIES)
    is_query = query < length
    q_place = q_at + query[:, None] * (3 * WIDTH) + half[None, :]
    q_first, q_second = _load_turned(q_place, cos_ptr, sin_ptr, query, half, is_query, HALF, BLOCK)
    top = tl.full([QUERIES], float("-inf"), tl.float32)  # largest score so far
    total = tl.zeros([QUERIES], tl.float32)  # sum of exponentials, relative to it
    out = tl.zeros([QUERIES, 2 * BLOCK], tl.float32)
    for begin in range(0, length, KEYS):
        key = begin + tl.arange(0, KEYS)
        is_key = key < length
        k_place = k_at + key[:, None] * (3 * WIDTH) + half[None, :]
        k_first, k_second = _load_turned(k_place, cos_ptr, sin_ptr, key, half, is_key, HALF, BLOCK)
        scores = tl.dot(q_first, tl.trans(k_first))
        scores = tl.dot(q_second, tl.trans(k_second), scores)
        scores = tl.where(is_key[None, :], scores * scale, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        v_place = v_at + key[:, None] * (3 * WIDTH) + whole[None, :]
        is_value = is_key[:, None]
        if BLOCK > HALF:
            is_value = is_value & (whole < SIZE)[None, :]
        v = tl.load(v_place, mask=is_value, other=0.0)
        out = out * shrink[:, None] + tl.dot(weights.to(v.dtype), v)
        top = new_top
    out = out / total[:, None]
    out_place = out_ptr + (start + query)[:, None] * WIDTH + head * SIZE + whole[None, :]
    is_out = is_query[:, None]
    if BLOCK > HALF:
        is_out = is_out & (whole < SIZE)[None, :]
    tl.store(out_place, out.to(out_ptr.dtype.element_ty), mask=is_out)


def rotary_attention(
    qkv: Tensor, cos: Tensor, sin: Tensor, bounds: Tensor, tiles: Tensor, out: Tensor
) -> None:
    """Attention within the segments that `tiles` names, in both directions, scores scaled by 1/sqrt(head size).

    All tensors contiguous, on one CUDA device; nothing is checked.

    Args:
        qkv: float16 or bfloat16 [rows, 3, heads, head size] as projected; a head size of 16, 24, 32, 64 or 128.
        cos, sin: float32 [longest segment or more, head size / 2].
        bounds: int32 [segments + 1].
        tiles: int32 [tiles, 2], from `query_tiles` with tiles of `QUERIES`.
        out: as `qkv` [rows, heads * head size]; only the rows of the tiles are written.
    """
    _, _, heads, size = qkv.shape
    _rotary_attention[(len(tiles), heads)](
        qkv,
        cos,
        sin,
        bounds,
        tiles,
        out,
        _LOG2_E / math.sqrt(size),
        heads,
        size // 2,
        max(16, triton.next_power_of_2(size // 2)),
        QUERIES,
        _KEYS,
        num_warps=4,
        num_stages=1,
    )
