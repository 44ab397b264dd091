"""Trains VirNucPro's classifier on the features of labelled frames, on the CPU, and applies it to features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from virnucpro_core.models.classifier import Head, recalibrate
from virnucpro_core.scoring.verdicts import CLASSES

_READ_TOGETHER = 2048
"""Frames of one read where all are read."""
_MIN_STEPS, _MIN_BATCH = 8, 16
"""Steps of an epoch at least, as long as a batch then has this many frames."""
_MIN_DEVIATION = 1e-3
"""Of a feature, as a share of the median over all: noise in a constant one must not be amplified."""

EpochDone = Callable[[int, float], None]
"""Called with the number of epochs done and the mean loss of the last one."""


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """How a head is trained; nothing is chosen by looking at held-out records.

    Attributes:
        hidden: width of the hidden layer.
        epochs: how often each frame is seen.
        batch: frames of a step, about; fewer where there are few frames, so that there are some steps.
        learning_rate: of AdamW at the start; it falls to 0 along a cosine.
        weight_decay: of AdamW.
        dropout: share of hidden values dropped; one half in the published heads.
        smoothing: of the labels.
        seed: of the first weights, the order of frames, and dropout.
    """

    hidden: int
    epochs: int = 10
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.5
    smoothing: float = 0.1
    seed: int = 1


def train_head(
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    is_virus: NDArray[np.bool_],
    recipe: HeadRecipe,
    epoch_done: EpochDone = lambda *_: None,
) -> Head:
    """Train a new head. The same arguments and number of threads give bit-identical weights on one machine.

    The loss is the cross-entropy of each frame, as in the original; each label counts one half.

    Args:
        features: float32 [frames of a file, dim], also mapped from it; a batch is read when its turn comes.
        rows: int64 [n], the frames to learn from, of both labels.
        is_virus: bool [n], their labels.

    Returns:
        the head in evaluation mode, without gradients, of temperature 1.

    Raises:
        ValueError: there are not two frames, or one label is missing.
    """
    if len(rows) < 2 or is_virus.all() or not is_virus.any():
        raise ValueError("a head is trained on at least one frame of each label")
    mean, deviation = _moments(features, rows)
    target = torch.from_numpy(is_virus.astype(np.int64))
    counts = torch.bincount(target, minlength=len(CLASSES))
    weight = (len(rows) / 2 / counts)[target]
    batches = _steps_of_an_epoch(len(rows), recipe.batch)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(recipe.seed)
        head = Head(features.shape[1], recipe.hidden, recipe.dropout).train()
        optimiser = torch.optim.AdamW(
            head.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * batches)

        def inputs(members: Tensor) -> Tensor:
            return (torch.from_numpy(features[rows[members.numpy()]]) - mean) / deviation

        def shuffled() -> Iterator[Tensor]:
            for members in torch.tensor_split(torch.randperm(len(rows)), batches):
                yield members.sort().values  # read in the order of the file

        for epoch in range(recipe.epochs):
            total = 0.0
            for members in shuffled():
                losses = F.cross_entropy(
                    head(inputs(members)),
                    target[members],
                    reduction="none",
                    label_smoothing=recipe.smoothing,
                )
                loss = (losses * weight[members]).mean()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += loss.item() * len(members)
            epoch_done(epoch + 1, total / len(rows))
        recalibrate(head, (inputs(members) for members in shuffled()))
    return _for_raw_features(head, mean, deviation)


def head_margins(head: Head, features: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """logit(virus) - logit(others) of some frames, float32 [rows]; a frame's bits do not depend on the others."""
    found = np.empty(len(rows), dtype=np.float32)
    with torch.inference_mode():
        for first in range(0, len(rows), _READ_TOGETHER):
            logits = head(torch.from_numpy(features[rows[first : first + _READ_TOGETHER]]))
            found[first : first + _READ_TOGETHER] = (logits[:, 1] - logits[:, 0]).numpy()
    return found


def _steps_of_an_epoch(frames: int, batch: int) -> int:
    return max(1, round(frames / batch), min(_MIN_STEPS, frames // _MIN_BATCH))


def _moments(features: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over some frames, float32 [dim] each."""
    pieces = [rows[first : first + _READ_TOGETHER] for first in range(0, len(rows), _READ_TOGETHER)]
    mean = sum(features[piece].sum(axis=0, dtype=np.float64) for piece in pieces) / len(rows)
    squares = sum(((features[piece] - mean) ** 2).sum(axis=0) for piece in pieces)
    deviation = np.sqrt(squares / len(rows))
    deviation = np.maximum(deviation, _MIN_DEVIATION * np.median(deviation))
    deviation[deviation == 0] = 1  # all frames are the same
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


@torch.no_grad()
def _for_raw_features(head: Head, mean: Tensor, deviation: Tensor) -> Head:
    """The same head for features as they are, instead of those with mean 0 and deviation 1."""
    weight = head.hidden.weight.double() / deviation.double()
    head.hidden.bias.sub_(weight @ mean.double())
    head.hidden.weight.copy_(weight)
    return head.eval().requires_grad_(False)
