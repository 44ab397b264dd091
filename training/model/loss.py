"""What training minimises: the chunk's verdict and each frame's score."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FRAME, CHUNK = 0.5, 0.5  # how much the two ways to look at a verdict count


def chunk_margins(margins: Tensor, frame_chunk: Tensor, chunks: int) -> Tensor:
    """The margin behind a chunk's verdict, float [chunks]; 0 for a number that no frame has.

    VirNucPro calls a chunk a virus if its highest virus score is at least its highest others score. With
    margins m = logit(virus) - logit(others) [frames] that is max(m) + min(m) >= 0: the frame surest of a
    virus against the frame surest of the opposite. The half keeps a chunk of one frame at its own margin.
    """
    zeros = margins.new_zeros(chunks)
    highest = zeros.scatter_reduce(0, frame_chunk, margins, "amax", include_self=False)
    lowest = zeros.scatter_reduce(0, frame_chunk, margins, "amin", include_self=False)
    return (highest + lowest) / 2


def targets(label: Tensor, smoothing: float) -> Tensor:
    """What margins are trained towards, as probabilities of a virus, float [n]: label float [n], 1 for a virus,
    moved towards one half by `smoothing`."""
    return label * (1 - smoothing) + smoothing / 2


def classification_loss(
    margins: Tensor, frame_chunk: Tensor, frame_label: Tensor, smoothing: float
) -> Tensor:
    """Weighted sum of the frames' and the chunks' cross-entropy.

    margins float [frames]; frame_chunk int64 [frames], below the number of frames; frame_label float [frames],
    the same for all frames of a chunk; smoothing: see `targets`.
    """
    # As many places as frames, whatever the number of chunks: shapes stay the same from step to step.
    places = len(margins)
    chunk_label = torch.zeros_like(margins).scatter(0, frame_chunk, frame_label)
    there = torch.zeros_like(margins).scatter(0, frame_chunk, 1.0)
    frames = F.binary_cross_entropy_with_logits(margins, targets(frame_label, smoothing))
    chunks = F.binary_cross_entropy_with_logits(
        chunk_margins(margins, frame_chunk, places), targets(chunk_label, smoothing), reduction="none"
    )
    return FRAME * frames + CHUNK * (chunks * there).sum() / there.sum()
