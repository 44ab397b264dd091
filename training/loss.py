"""What training minimises: the chunk's verdict, each frame's score, and the two language-model losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each loss counts. smoothing: how far a label is moved from 0 or 1 towards one half."""

    frame: float = 0.5
    chunk: float = 0.5
    protein_mlm: float = 0.1
    dna_mlm: float = 0.1
    smoothing: float = 0.1


def chunk_logits(margins: Tensor, frame_chunk: Tensor, chunks: int) -> Tensor:
    """The margin behind a chunk's verdict, float [chunks].

    VirNucPro calls a chunk a virus if its highest virus score is at least its highest others score. With
    margins m = logit(virus) - logit(others) [frames] that is max(m) + min(m) >= 0: the frame surest of a
    virus against the frame surest of the opposite. The half keeps a chunk of one frame at its own margin.
    """
    highest = margins.new_full((chunks,), -torch.inf).scatter_reduce(0, frame_chunk, margins, "amax")
    lowest = margins.new_full((chunks,), torch.inf).scatter_reduce(0, frame_chunk, margins, "amin")
    return (highest + lowest) / 2


def classification_loss(logits: Tensor, frame_chunk: Tensor, chunk_label: Tensor, weights: Weights) -> Tensor:
    """Weighted sum of the frames' and the chunks' cross-entropy.

    logits float [frames, 2] (others, virus); frame_chunk int64 [frames]; chunk_label float [chunks], 1 for a
    virus. A frame has its chunk's label.
    """
    margins = logits[:, 1] - logits[:, 0]
    target = chunk_label * (1 - weights.smoothing) + weights.smoothing / 2
    of_chunk = chunk_logits(margins, frame_chunk, len(chunk_label))
    return weights.frame * F.binary_cross_entropy_with_logits(
        margins, target[frame_chunk]
    ) + weights.chunk * F.binary_cross_entropy_with_logits(of_chunk, target)


def masked_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of hidden tokens: logits [hidden, vocabulary], targets int64 [hidden]; 0 for none."""
    return F.cross_entropy(logits, targets, reduction="sum") / max(len(targets), 1)
