"""ESM-2's query, key and value projections as one matrix per layer, without a second copy of the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class MergedProjections:
    """Merges q, k and v of every layer, and keeps them merged.

    The three projections become views of the merged matrix. They stay the parameters: an optimizer's in-place
    step, or `load_state_dict`, changes the merged matrix with them. Where gradients are wanted the three are
    concatenated anew instead, so that each gets its own.

    Args:
        attentions: fair-esm's attention module of each layer.
    """

    def __init__(self, attentions: Iterable[nn.Module]) -> None:
        self._parts: list[tuple[nn.Linear, nn.Linear, nn.Linear]] = [
            (attention.q_proj, attention.k_proj, attention.v_proj)  # type: ignore[misc]
            for attention in attentions
        ]
        self._merged: list[tuple[Tensor, Tensor]] = []
        self.merge()

    def merge(self) -> None:
        """Merge all layers; needed again when the parameters have moved."""
        self._merged = [_merge(parts) for parts in self._parts]

    def of_layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Weight [3 dim, dim] and bias [3 dim] of a layer (from 0), in the order q, k, v."""
        parts = self._parts[index]
        if torch.is_grad_enabled() and any(part.weight.requires_grad for part in parts):
            return torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        if not _is_merged(parts, *self._merged[index]):
            self._merged[index] = _merge(parts)
        return self._merged[index]


def _merge(parts: tuple[nn.Linear, ...]) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.no_grad():
        weight = torch.cat([part.weight.detach() for part in parts])
        bias = torch.cat([part.bias.detach() for part in parts])
        for part, its_weight, its_bias in zip(parts, weight.chunk(3), bias.chunk(3), strict=True):
            part.weight.data, part.bias.data = its_weight, its_bias
    return weight, bias


def _is_merged(parts: tuple[nn.Linear, ...], weight: Tensor, bias: Tensor) -> bool:
    """Do the three still lie in the merged memory? If not, somebody replaced a parameter's data; a stale matrix
    would give wrong numbers without a word."""
    return all(
        part.weight.data_ptr() == its_weight.data_ptr() and part.bias.data_ptr() == its_bias.data_ptr()
        for part, its_weight, its_bias in zip(parts, weight.chunk(3), bias.chunk(3), strict=True)
    )
