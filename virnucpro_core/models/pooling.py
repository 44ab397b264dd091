"""From token representations to one vector a frame."""

from __future__ import annotations

import torch
from torch import Tensor

from virnucpro_core.models.layout import PackedLayout


def mean_of_tokens(representations: Tensor, layout: PackedLayout) -> Tensor:
    """Mean over all tokens of each segment, special tokens included, as for DNABERT-S.

    [tokens, dim] of any float type -> float32 [segments, dim]. A segment is summed in fp32, from its first
    token to its last, whatever its neighbours.
    """
    return _segment_means(representations, layout.token_bounds)


def mean_of_residues(representations: Tensor, layout: PackedLayout) -> Tensor:
    """Mean over the tokens between the first and the last of each segment, as for ESM-2.

    [tokens, dim] of any float type -> float32 [segments, dim]; see `mean_of_tokens`.

    Raises:
        ValueError: a segment has no token between its ends.
    """
    if layout.lengths.min() < 3:
        raise ValueError(f"segment {int(layout.lengths.argmin())} has no residue to take the mean of")
    bounds = layout.token_bounds
    starts, ends = bounds[:-1], bounds[1:]
    # Each segment as three: its first token, its residues, its last token.
    pieces = torch.cat([torch.stack([starts, starts + 1, ends - 1], dim=1).flatten(), bounds[-1:]])
    return _segment_means(representations, pieces)[1::3]


def frame_features(dna: Tensor, protein: Tensor) -> Tensor:
    """VirNucPro's feature vector: DNABERT-S's mean, then ESM-2's; [frames, dna dim + protein dim]."""
    return torch.cat([dna, protein], dim=1)


def _segment_means(representations: Tensor, bounds: Tensor) -> Tensor:
    # `unsafe` skips a check of the bounds that would wait for the device; the layout has checked them.
    return torch.segment_reduce(representations.float(), "mean", offsets=bounds, axis=0, unsafe=True)
