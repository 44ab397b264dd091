"""Rotary position tables for ESM-2, from the checkpoint's own fp32 frequencies, once per forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from virnucpro_core.models.layout import WIDTH_STEP, PackedLayout


class RotaryTables:
    """cos and sin for all layers of a model.

    fair-esm computes its tables in the model's type, far off in 16 bits, in every layer, and keeps them when
    the type changes. These are computed in fp32 and cast.

    Args:
        rotary: fair-esm's rotary module of each layer.

    Raises:
        ValueError: an `inv_freq` was cast, or the layers differ in it.
    """

    def __init__(self, rotary: Sequence[Any]) -> None:
        self._rotary = list(rotary)
        for module in self._rotary:
            if module.inv_freq.dtype != torch.float32:
                raise ValueError(_cast(module.inv_freq))
            if not torch.equal(module.inv_freq, self._rotary[0].inv_freq):
                raise ValueError("the model's layers differ in inv_freq")

    def packed(self, layout: PackedLayout, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin [rows, 1, 1, head size / 2] of each row's position in its segment."""
        cos, sin = (
            table.to(dtype).index_select(0, layout.positions) for table in self.by_position(layout.max_seqlen)
        )
        return cos[:, None, None], sin[:, None, None]

    def by_position(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin, float32 [`length` or a little more, head size / 2]."""
        angles = self._angles(-(-length // WIDTH_STEP) * WIDTH_STEP)
        return angles.cos(), angles.sin()

    @contextmanager
    def lent_to_fair_esm(self, length: int, dtype: torch.dtype) -> Iterator[None]:
        """Within this context fair-esm's own forward uses these tables for inputs of `length` tokens."""
        half = self._angles(length)
        both_halves = torch.cat((half, half), dim=-1)
        cos, sin = both_halves.cos().to(dtype)[None], both_halves.sin().to(dtype)[None]
        for module in self._rotary:
            module._seq_len_cached, module._cos_cached, module._sin_cached = length, cos, sin
        try:
            yield
        finally:
            for module in self._rotary:
                module._seq_len_cached = module._cos_cached = module._sin_cached = None

    def restore(self, frequencies: Sequence[Tensor]) -> None:
        """Put back the fp32 `inv_freq` of each layer, where the model is now."""
        for module, kept in zip(self._rotary, frequencies, strict=True):
            module.inv_freq = kept.to(module.inv_freq.device)

    @property
    def frequencies(self) -> list[Tensor]:
        """`inv_freq` of each layer."""
        return [module.inv_freq for module in self._rotary]

    def _angles(self, length: int) -> Tensor:
        """As `angles`, of this model."""
        inverse = self._rotary[0].inv_freq
        if inverse.dtype != torch.float32:
            raise ValueError(_cast(inverse))
        return angles(length, inverse)


def angles(length: int, inv_freq: Tensor) -> Tensor:
    """float32 [length, head size / 2]: position times inverse frequency, computed as fair-esm does.

    inv_freq: float32 [head size / 2].
    """
    with torch.autocast(inv_freq.device.type, enabled=False):
        places = torch.arange(length, device=inv_freq.device).type_as(inv_freq)
        return torch.einsum("i,j->ij", places, inv_freq)


def _cast(inv_freq: Tensor) -> str:
    return f"the model's inv_freq was cast to {inv_freq.dtype}: wrap the model in fp32 and cast the wrapper"
