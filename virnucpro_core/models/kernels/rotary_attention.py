"""Rotary embedding and attention of one batch, given q, k and v as the projection leaves them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from virnucpro_core.models.attention import Attention
from virnucpro_core.models.kernels.rotation import rotate
from virnucpro_core.models.layout import PackedLayout, to_device

RotaryAttention = Callable[[Tensor], Tensor]
"""qkv [rows, 3, heads, head size] -> [rows, heads * head size], for the one layout that it is bound to. It may
change `qkv`."""

Rotate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""As `rotation.rotate`."""


def rotate_then_attend(
    layout: PackedLayout, cos: Tensor, sin: Tensor, attention: Attention, turn: Rotate = rotate
) -> RotaryAttention:
    """In two steps: rotate q and k, then an attention back-end; the plain form of
    `rotary_attention_triton.rotary_attention`.

    Args:
        layout: the batch, on the device of the forward.
        cos, sin: float32 [longest segment or more, head size / 2].
        attention: a back-end's, bound to the layout; it scales the scores by 1/sqrt(head size).
        turn: what rotates.
    """

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = turn(qkv, cos, sin, layout.positions).unbind(1)
        return attention(q, k, v).flatten(1)

    return attend


def query_tiles(lengths: NDArray[np.int64], served: NDArray[np.bool_], size: int) -> NDArray[np.int32]:
    """The tiles of queries of the served segments, int32 [tiles, 2]: segment, first query in the segment.

    A tile never spans two segments, so what is computed together does not depend on the neighbours.
    """
    segments = np.flatnonzero(served)
    counts = -(-lengths[segments] // size)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    starts = (np.arange(counts.sum()) - first) * size
    return np.stack([np.repeat(segments, counts), starts], axis=1).astype(np.int32)


def short_by_kernel(
    layout: PackedLayout,
    kernel: Callable[[Tensor, Tensor, Tensor], None],
    longest: int,
    tile: int,
    long_attention: Callable[[PackedLayout], RotaryAttention],
) -> RotaryAttention:
    """Segments of up to `longest` rows by a fused kernel, longer ones apart, by `long_attention`.

    Which of the two serves a segment depends on its own length alone: its bits do not change with its
    neighbours.

    Args:
        layout: the batch, on the device of the forward.
        kernel: kernel(qkv, out, tiles) computes the rows of `out` [rows, heads * head size] that belong to tiles,
            see `query_tiles`; the others are left alone.
        longest: rows of the longest segment that the kernel serves.
        tile: queries of a tile.
        long_attention: what attends in the long segments, given their layout.
    """
    lengths = layout.lengths
    if layout.rows > layout.total:
        lengths = np.append(lengths, layout.rows - layout.total)
    short = lengths <= longest
    if not short.any():
        return long_attention(layout)
    tiles = to_device(query_tiles(lengths, short, tile), layout.device)
    if short.all():

        def attend(qkv: Tensor) -> Tensor:
            out = qkv.new_empty(len(qkv), qkv[0, 0].numel())
            kernel(qkv, out, tiles)
            return out

        return attend

    rows = to_device(np.flatnonzero(np.repeat(~short, lengths)), layout.device)
    bounds = np.concatenate([[0], np.cumsum(lengths[~short])]).astype(np.int32)
    apart = PackedLayout.build(bounds, int(bounds[-1]), layout.device, min_rows=0)
    attend_apart = long_attention(apart)

    def attend_both(qkv: Tensor) -> Tensor:
        out = qkv.new_empty(len(qkv), qkv[0, 0].numel())
        kernel(qkv, out, tiles)
        return out.index_copy_(0, rows, attend_apart(qkv.index_select(0, rows)))

    return attend_both
