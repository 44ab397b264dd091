"""Rotary position embedding of queries and keys (Su et al., "RoFormer", 2021), half-split as in fair-esm."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """Rotate q and k in place: the plain form of `rotation_triton.rotate`.

    Args:
        qkv: float [rows, 3, heads, head size], changed in place; its last third, v, is left alone.
        cos, sin: float32 [positions, head size / 2].
        positions: int [rows], each row's position in its segment.

    Returns:
        `qkv`. Computed in fp32 and rounded once.
    """
    cos, sin = (table.index_select(0, positions)[:, None, None] for table in (cos, sin))
    first, second = qkv[:, :2].float().chunk(2, dim=-1)
    qkv[:, :2] = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return qkv
