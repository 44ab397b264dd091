"""Weights into modules and out of them, by name, with nothing missing and nothing left over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from virnucpro_core.bundle.manifest import BundleError
from virnucpro_core.wording import some_of

_Module = TypeVar("_Module", bound=nn.Module)


class WeightsError(BundleError):
    """Weights do not fit their model; the one-line message says which."""


def fill(
    role: str, module: _Module, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> _Module:
    """Give a module that was built on the meta device its weights, ready for inference.

    Args:
        role: whose weights they are, for the error.
        module: built on meta; its parameters and buffers are replaced, so that no second copy exists.
        tensors: by the module's own names.
        device: where they go.
        dtype: what they are cast to; `inv_freq`, ESM-2's rotary frequencies, is always kept in fp32, and
            integers as they are.

    Returns:
        the module, in evaluation mode, without gradients.

    Raises:
        WeightsError: a name is missing or unknown, a shape is wrong, or a number is NaN or infinite, as stored or
            in `dtype`.
    """
    wanted = module.state_dict()
    if missing := [name for name in wanted if name not in tensors]:
        raise WeightsError(f"{role}: weights are missing: {some_of(missing)}")
    if unknown := [name for name in tensors if name not in wanted]:
        raise WeightsError(f"{role}: weights that the model does not have: {some_of(unknown)}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise WeightsError(
                f"{role}: {name} is {list(tensor.shape)}, the model's is {list(wanted[name].shape)}"
            )
    placed = {name: tensor.to(device, _dtype(name, tensor, dtype)) for name, tensor in tensors.items()}
    if bad := not_finite(placed):
        kind = str(dtype).removeprefix("torch.")
        raise WeightsError(
            f"{role}: weights are NaN or infinite in {kind}: {some_of(bad)}; fetch the model again, or choose another "
            "precision"
        )
    module.load_state_dict(placed, assign=True)
    return module.eval().requires_grad_(False)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold NaN or infinity; tensors on the meta device hold nothing."""
    return [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.is_meta and tensor.numel() and not _is_finite(tensor)
    ]


def _is_finite(tensor: Tensor) -> bool:
    # Both ends are NaN if any number is. Nothing of the tensor's size is made for it.
    return all(bool(end.isfinite()) for end in torch.aminmax(tensor))


def weights_of(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """A module's weights as they go into a bundle: copies on the CPU, cast as `fill` casts."""
    return {
        name: tensor.detach().to("cpu", _dtype(name, tensor, dtype), copy=True).contiguous()
        for name, tensor in module.state_dict().items()
    }


def _dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.float32 if name.endswith("inv_freq") else dtype
