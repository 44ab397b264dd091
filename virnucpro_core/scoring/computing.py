"""Where the batches of a file are computed: here, one after the other, or elsewhere, several side by side. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from virnucpro_core.scoring.model import Compute, FloatArray
from virnucpro_core.sequence.prepare import PreparedFrame

Rows = Callable[[], FloatArray]
"""Gives the rows of a batch, float32 [frames, columns], and waits for them; raises as `Scorer.score`. Called once."""


class Computing(Protocol):
    """Takes batches and gives their rows later."""

    @property
    def ahead(self) -> int:
        """Batches that are begun before the rows of the oldest are asked for."""

    def begin(self, frames: Sequence[PreparedFrame]) -> Rows:
        """Begin a batch."""


@dataclass(frozen=True, slots=True)
class Here:
    """Computes a batch when its rows are asked for, on that thread.

    An exception of the model comes out of the call itself and is kept nowhere: it would keep the tensors of its frames
    alive.
    """

    compute: Compute
    ahead: int = 0

    def begin(self, frames: Sequence[PreparedFrame]) -> Rows:
        return partial(self.compute, frames)
