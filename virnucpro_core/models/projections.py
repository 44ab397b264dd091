"""ESM-2's query, key and value projections as one matrix per layer, without a second copy of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro_core.models.kernels.fp8 import Fp8Linear
from virnucpro_core.models.unfilled import unfilled


class MergedProjections:
    """Merges q, k and v of every layer, and keeps them merged.

    The three projections become views of the merged matrix. They stay the parameters: an optimizer's in-place
    step, or `load_state_dict`, changes the merged matrix with them. Where gradients are wanted the three are
    concatenated for each call instead, so that each gets its own.

    Args:
        attentions: fair-esm's attention module of each layer.
        fp8: the products are in fp8, from a quantised copy of the merged matrix; without gradients.
    """

    def __init__(self, attentions: Iterable[nn.Module], fp8: bool = False) -> None:
        self._fp8 = fp8
        self._parts: list[tuple[nn.Linear, nn.Linear, nn.Linear]] = [
            (attention.q_proj, attention.k_proj, attention.v_proj)  # type: ignore[misc]
            for attention in attentions
        ]
        self._merged: list[nn.Linear] = []
        self._quantised: list[Fp8Linear] = []
        self.merge()

    def merge(self) -> None:
        """Merge all layers; needed again when the parameters have moved."""
        self._merged = [_merge(parts) for parts in self._parts]
        self._quantised = [Fp8Linear.of(merged) for merged in self._merged] if self._fp8 else []

    def of_layer(self, index: int) -> Callable[[Tensor], Tensor] | Fp8Linear:
        """The product x [rows, dim] -> [rows, 3 dim] of a layer (from 0): q, k and v beside each other."""
        if self._quantised:
            return self._quantised[index]
        parts = self._parts[index]
        if torch.is_grad_enabled() and any(part.weight.requires_grad for part in parts):
            weight, bias = concatenated(parts)
            return lambda x: F.linear(x, weight, bias)
        if not _is_merged(parts, self._merged[index]):
            self._merged[index] = _merge(parts)
        return self._merged[index]

    def release(self) -> None:
        """Give up the weights that the products in fp8 were made of."""
        self._merged = []
        for parts in self._parts:
            for part in parts:
                give_up_weight(part)


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


def give_up_weight(linear: nn.Linear) -> None:
    """Free the memory of a linear layer's weight; the layer cannot be used afterwards."""
    linear.weight = nn.Parameter(linear.weight.detach().to("meta"), requires_grad=False)
