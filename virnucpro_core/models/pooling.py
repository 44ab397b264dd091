"""From token representations to one vector a frame."""

from __future__ import annotations

import torch
from torch import Tensor

from virnucpro_core.models.kernels.choice import means_of_segments
from virnucpro_core.models.layout import PackedLayout


def mean_of_tokens(representations: Tensor, layout: PackedLayout) -> Tensor:
    """Mean over all tokens of each segment, special tokens included, as for DNABERT-S.

    [tokens, dim] of any float type -> float32 [segments, dim]. A segment is summed in fp32, from its first
    token to its last, whatever its neighbours.
    """
    return means_of_segments(representations, layout.token_bounds, skip=0)


def mean_of_residues(representations: Tensor, layout: PackedLayout) -> Tensor:
    """Mean over the tokens between the first and the last of each segment, as for ESM-2.

    [tokens, dim] of any float type -> float32 [segments, dim]; see `mean_of_tokens`.

    Raises:
        ValueError: a segment has no token between its ends.
    """
    if layout.lengths.min() < 3:
        raise ValueError(f"segment {int(layout.lengths.argmin())} has no residue to take the mean of")
    return means_of_segments(representations, layout.token_bounds, skip=1)


def frame_features(dna: Tensor, protein: Tensor) -> Tensor:
    """VirNucPro's feature vector: DNABERT-S's mean, then ESM-2's; [frames, dna dim + protein dim]."""
    return torch.cat([dna, protein], dim=1)
