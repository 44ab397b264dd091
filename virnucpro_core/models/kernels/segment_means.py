"""Mean over the rows of each segment."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_means(rows: Tensor, bounds: Tensor, skip: int) -> Tensor:
    """Mean of each segment's rows but its first and last `skip`: the plain form of
    `segment_means_triton.segment_means`.

    Args:
        rows: float [rows, dim] of any type.
        bounds: int [segments + 1]: 0, l1, l1 + l2, ...; rows after the last bound are not read.
        skip: 0 or 1. No segment may have fewer than 2 * skip + 1 rows.

    Returns:
        float32 [segments, dim], summed in fp32.
    """
    pieces = bounds
    if skip:
        # Each segment as three: its first row, the rows between, its last row.
        starts, ends = bounds[:-1], bounds[1:]
        pieces = torch.cat([torch.stack([starts, starts + 1, ends - 1], dim=1).flatten(), bounds[-1:]])
    # `unsafe` skips a check of the bounds that would wait for the device; the layout has checked them.
    means = torch.segment_reduce(rows.float(), "mean", offsets=pieces, axis=0, unsafe=True)
    return means[1::3] if skip else means
