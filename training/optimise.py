"""Parts of the training loop: learning rate, moving average of the weights, BatchNorm's statistics."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.network import Network
from virnucpro_core.models.classifier import Head


def learning_rate(peak: float, progress: float, step: int, warm_up: int) -> float:
    """Linear over the first `warm_up` steps, then a cosine to zero; progress 0..1 is the share of the run."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * min(1.0, (step + 1) / warm_up) * cosine


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices only: none for biases, norms and other vectors."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


class MovingAverage:
    """An exponential moving average of a network's weights, in a copy of it that never trains."""

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards `network`; the first updates weigh more, so that the start is soon forgotten."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)


@torch.no_grad()
def recalibrate(head: Head, features: Iterable[Tensor]) -> None:
    """Set BatchNorm's statistics to their mean over batches of clean training features [frames, dim].

    The statistics gathered in training belong to other weights (those of the steps before, not the average's)
    and to disturbed input. No dropout acts here.
    """
    momentum = head.norm.momentum
    head.norm.reset_running_stats()
    head.norm.momentum = None  # the plain mean over all batches
    head.norm.train()
    for batch in features:
        head.norm(head.hidden(batch))
    head.norm.momentum = momentum
    head.eval()
