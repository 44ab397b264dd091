"""What the readers of the single models hand to the builder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from virnucpro_core.bundle.manifest import DnabertSConfig, Esm2Config, HeadConfig

_Config = TypeVar("_Config", Esm2Config, DnabertSConfig, HeadConfig)


@dataclass(frozen=True, slots=True, eq=False)
class Part(Generic[_Config]):
    """One of the three models, checked against its architecture.

    Attributes:
        config: its shape.
        tensors: by the names that a bundle uses, in the types of the checkpoint.
        layout: the kind of checkpoint, in words.
        files: where the weights came from.
    """

    config: _Config
    tensors: dict[str, Tensor]
    layout: str
    files: list[Path]

    @property
    def bytes(self) -> int:
        """Of the weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())
