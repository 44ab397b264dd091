"""VirNucPro's classifier: one hidden layer over a frame's features."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro_core.scoring.verdicts import CLASSES

_TILE = 64
"""Rows of one evaluation, always as many: with another number a library may take other kernels."""


class Head(nn.Module):
    """Linear, BatchNorm1d, ReLU, Dropout, Linear: features [frames, in_dim] -> logits [frames, 2], in fp32.

    Args:
        in_dim: DNABERT-S's and ESM-2's dimensions together.
        hidden: width of the hidden layer.
        dropout: share of hidden values dropped in training.
        temperature: logits are divided by it (Guo et al. 2017), which changes no verdict on a frame.
    """

    def __init__(self, in_dim: int, hidden: int, dropout: float = 0.1, temperature: float = 1.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_dim, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, len(CLASSES))
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """Logits in the order of `CLASSES`. In evaluation a row's bits do not depend on the other rows."""
        if self.training:
            return self._logits(features)
        frames = len(features)
        padded = F.pad(features, (0, 0, 0, -frames % _TILE))
        return torch.cat([self._logits(tile) for tile in torch.split(padded, _TILE)])[:frames]

    def _logits(self, features: Tensor) -> Tensor:
        out: Tensor = self.output(self.dropout(F.relu(self.norm(self.hidden(features)))))
        return out / self.temperature


@torch.no_grad()
def recalibrate(head: Head, features: Iterable[Tensor]) -> None:
    """Set BatchNorm's statistics to their mean over batches of training features [frames, in_dim].

    Those gathered in training belong to other weights (of the steps before, not of an average), to disturbed input,
    and lag behind after few steps. No dropout acts here. Leaves the head in evaluation mode.
    """
    momentum = head.norm.momentum
    head.norm.reset_running_stats()
    head.norm.momentum = None  # the plain mean over all batches
    head.norm.train()
    for batch in features:
        head.norm(head.hidden(batch))
    head.norm.momentum = momentum
    head.eval()
