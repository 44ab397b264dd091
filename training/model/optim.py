"""Parts of the training loops: learning rate, optimiser, averages of weights, checkpoints."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.model.network import Network
from training.recipe import Optimiser

BETAS = (0.9, 0.98)
CLIP = 1.0
SAVE_EVERY_SECONDS = 60.0


def learning_rate(recipe: Optimiser, step: int) -> float:
    """Linear over the first steps, then a cosine to zero at the last."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(step / recipe.steps, 1.0)))
    return recipe.lr * min(1.0, (step + 1) / max(recipe.warmup_steps, 1)) * cosine


class Optimisers:
    """AdamW, and Muon for the matrices of the encoders' layers if the recipe says so, as one.

    Weights decay in matrices only. Muon's steps are scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982),
    so that both have one learning rate.

    Args:
        network: what is trained.
        recipe: the settings.
        ratios: the learning rate of each of the network's parts, as a share of the recipe's.
    """

    def __init__(
        self, network: Network, recipe: Optimiser, ratios: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ) -> None:
        by_muon = {id(p) for p in network.layer_matrices} if recipe.muon else set()
        adamw: list[dict[str, Any]] = []
        muon: list[dict[str, Any]] = []
        for part, ratio in zip(network.parts, ratios, strict=True):
            rest = [p for p in part if id(p) not in by_muon]
            decay = {"weight_decay": recipe.weight_decay, "lr_ratio": ratio}
            adamw.append({"params": [p for p in rest if p.ndim >= 2]} | decay)
            adamw.append({"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "lr_ratio": ratio})
            if matrices := [p for p in part if id(p) in by_muon]:
                muon.append({"params": matrices} | decay)
        self._all: list[torch.optim.Optimizer] = [torch.optim.AdamW(adamw, lr=0.0, betas=BETAS, fused=True)]
        if muon:
            self._all.append(torch.optim.Muon(muon, lr=0.0, adjust_lr_fn="match_rms_adamw"))

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Their groups of parameters."""
        return [group for one in self._all for group in one.param_groups]

    def forget(self) -> None:
        """Drop the gradients."""
        for one in self._all:
            one.zero_grad(set_to_none=True)

    def step(self, lr: float) -> None:
        """Update the weights by their gradients."""
        for group in self.groups:
            group["lr"] = lr * group["lr_ratio"]
        for one in self._all:
            one.step()

    def state(self) -> list[dict[str, Any]]:
        """What `restore` puts back."""
        return [one.state_dict() for one in self._all]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Put a `state` back."""
        for one, state in zip(self._all, states, strict=True):
            one.load_state_dict(state)


def take_step(optimisers: Optimisers, network: Network, loss: Tensor, lr: float) -> None:
    """Backward, clip, step. Each part is clipped for itself: one whose gradient jumps neither holds the others back nor
    hides behind them."""
    optimisers.forget()
    torch.autograd.backward(loss)
    for part in network.parts:
        torch.nn.utils.clip_grad_norm_(part, CLIP)
    optimisers.step(lr)


class MovingAverage:
    """An exponential moving average of a network's weights, in a copy of it that never trains."""

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards `network`; the first updates weigh more, so that the start is soon forgotten."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)


@torch.no_grad()
def mean_of(members: Sequence[Network]) -> Network:
    """A network of the mean of the members' weights; BatchNorm's statistics are to be measured again."""
    network = copy.deepcopy(members[0])
    of_members = [list(member.parameters()) for member in members]
    for target, *parameters in zip(network.parameters(), *of_members, strict=True):
        target.copy_(torch.stack(parameters).mean(0))
    return network


class Checkpoint:
    """Saves a run at intervals, so that an interrupted one resumes.

    key: names the settings; what was saved under another key is ignored.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._key = path, key
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last, or None."""
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        return state if state["key"] == self._key else None

    def save(self, state: dict[str, Any]) -> None:
        """Save all of it or nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        torch.save({"key": self._key, **state}, unfinished)
        unfinished.rename(self.path)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete what was saved."""
        self.path.unlink(missing_ok=True)

    def due(self) -> bool:
        """True if the last save is older than SAVE_EVERY_SECONDS."""
        return time.monotonic() - self._saved > SAVE_EVERY_SECONDS


def training_state(
    step: int, network: Network, average: MovingAverage, optimisers: Optimisers
) -> dict[str, Any]:
    """What a checkpoint holds of a run that has taken `step` steps."""
    return {
        "step": step,
        "network": network.state_dict(),
        "average": average.network.state_dict(),
        "optimisers": optimisers.state(),
    }


def restore(state: dict[str, Any], network: Network, average: MovingAverage, optimisers: Optimisers) -> int:
    """Put a `training_state` back; the number of steps that it had taken."""
    network.load_state_dict(state["network"])
    average.network.load_state_dict(state["average"])
    optimisers.restore(state["optimisers"])
    average.updates = state["step"]
    return average.updates
