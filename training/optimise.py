"""Parts of the training loop: the learning rate, the moving average of the weights, BatchNorm's statistics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
Batch = TypeVar("Batch")


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

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards `network`; the first updates weigh more, so that the random start is soon forgotten."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)


@torch.no_grad()
def recalibrate(network: nn.Module, run: Callable[[Batch], object], batches: Iterable[Batch]) -> None:
    """Set BatchNorm's statistics to the mean over clean training batches, for the weights as they are.

    The statistics gathered in training belong to other weights (those of every step before, not the average)
    and to disturbed input. Everything but BatchNorm stays in evaluation mode, so no dropout acts.
    """
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    for batch in batches:
        run(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
