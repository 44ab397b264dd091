"""fair-esm's ESM-2 from a bundle's weights, and back.

A bundle holds what representations need: neither the language-model head nor the contact head.
"""

from __future__ import annotations

from collections.abc import Mapping

import esm
import torch
from torch import Tensor, nn

from virnucpro_core.bundle.manifest import Esm2Config
from virnucpro_core.bundle.weights import WeightsError, fill, weights_of
from virnucpro_core.models.unfilled import unfilled

_HEADS = ("lm_head.", "contact_head.")


class _NoLanguageHead(nn.Module):
    """Stands where fair-esm's forward calls its language-model head: no logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :0]


def build_esm2(
    config: Esm2Config, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> esm.ESM2:
    """fair-esm's model with these weights, in evaluation mode, without its two heads.

    Args:
        config: its shape.
        tensors: by fair-esm's names; `inv_freq` among them, and kept in fp32.
        device, dtype: where the weights go, and what they are cast to.

    Raises:
        WeightsError: the weights are not of this shape.
    """
    with unfilled():
        model = esm.ESM2(config.layers, config.dim, config.heads)
    model.lm_head = _NoLanguageHead()
    del model.contact_head
    return fill("esm2", model, tensors, device, dtype)


def esm2_weights(model: esm.ESM2, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of fair-esm's model that a bundle holds, on the CPU, cast to `dtype` but for `inv_freq`.

    Raises:
        WeightsError: the model's `inv_freq` was cast, which loses what it holds.
    """
    cast = [name for name, tensor in model.state_dict().items() if _is_lossy(name, tensor)]
    if cast:
        raise WeightsError(f"{cast[0]} is no longer fp32")
    return {name: tensor for name, tensor in weights_of(model, dtype).items() if not name.startswith(_HEADS)}


def _is_lossy(name: str, tensor: Tensor) -> bool:
    return name.endswith("inv_freq") and tensor.dtype != torch.float32
