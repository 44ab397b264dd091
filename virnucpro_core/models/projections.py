"""ESM-2's query, key and value projections as one matrix per layer, without a second copy of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro_core.models.precision import MakeLinear, same_linear
from virnucpro_core.models.unfilled import unfilled


class MergedProjections:
    """Merges q, k and v of every layer, and keeps them merged.

    The three projections become views of the merged matrix. They stay the parameters: an optimizer's in-place
    step, or `load_state_dict`, changes the merged matrix with them. Where gradients are wanted the three are
    concatenated for each call instead, so that each gets its own.

    Args:
        attentions: fair-esm's attention module of each layer.
        linear: given the merged linear layer, makes what computes its product; see
            `virnucpro_core.models.precision`. Where gradients are wanted the product is torch's own.
    """

    def __init__(self, attentions: Iterable[nn.Module], linear: MakeLinear = same_linear) -> None:
        self._linear = linear
        self._parts: list[tuple[nn.Linear, nn.Linear, nn.Linear]] = [
            (attention.q_proj, attention.k_proj, attention.v_proj)  # type: ignore[misc]
            for attention in attentions
        ]
        self._merged: list[nn.Linear] = []
        self._products: list[nn.Module] = []
        self.merge()

    def merge(self) -> None:
        """Merge all layers; needed again when the parameters have moved."""
        self._merged = [_merge(parts) for parts in self._parts]
        self._products = [self._linear(merged) for merged in self._merged]

    def of_layer(self, index: int) -> Callable[[Tensor], Tensor]:
        """The product x [rows, dim] -> [rows, 3 dim] of a layer (from 0): q, k and v beside each other."""
        parts = self._parts[index]
        if torch.is_grad_enabled() and any(part.weight.requires_grad for part in parts):
            weight, bias = concatenated(parts)
            return lambda x: F.linear(x, weight, bias)
        if not _is_merged(parts, self._merged[index]):
            self._merged[index] = _merge(parts)
            self._products[index] = self._linear(self._merged[index])
        return self._products[index]


def concatenated(parts: Iterable[nn.Linear]) -> tuple[Tensor, Tensor]:
    """Weight [n out, in] and bias [n out] of n linear layers as one; gradients reach each of them."""
    parts = tuple(parts)
    return torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])


def _merge(parts: tuple[nn.Linear, ...]) -> nn.Linear:
    with torch.inference_mode(False), torch.no_grad():
        weight = torch.cat([part.weight.detach() for part in parts])
        bias = torch.cat([part.bias.detach() for part in parts])
        for part, its_weight, its_bias in zip(parts, weight.chunk(3), bias.chunk(3), strict=True):
            part.weight.data, part.bias.data = its_weight, its_bias
        with unfilled():
            merged = nn.Linear(weight.shape[1], weight.shape[0])
        merged.weight = nn.Parameter(weight, requires_grad=False)
        merged.bias = nn.Parameter(bias, requires_grad=False)
    return merged


def _is_merged(parts: tuple[nn.Linear, ...], merged: nn.Linear) -> bool:
    """Whether the three still lie in the merged memory. If not, a parameter's data was replaced; a stale matrix
    would give wrong numbers without a word."""
    return all(
        part.weight.data_ptr() == its_weight.data_ptr() and part.bias.data_ptr() == its_bias.data_ptr()
        for part, its_weight, its_bias in zip(
            parts, merged.weight.chunk(3), merged.bias.chunk(3), strict=True
        )
    )
