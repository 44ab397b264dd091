"""Writes safetensors files tensor by tensor, so that no copy of the weights is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from virnucpro_core.bundle.safetensors_header import Entry, header_of

Written = Callable[[int], None]
"""Called with the number of bytes after each piece is written."""

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
_PIECE = 16 * 2**20


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], written: Written) -> None:
    """Write weights by name, on the CPU, in the types that they have. Equal weights give equal bytes.

    Weights that are mapped from a file are read as they are written; beyond one tensor nothing is held.

    Raises:
        ValueError: a tensor is not on the CPU, or of a type that no model here has.
        OSError: the file cannot be written.
    """
    # Widest elements first keeps each tensor aligned to its elements.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries = {}
    for name in names:
        tensor = tensors[name]
        if tensor.device.type != "cpu" or tensor.dtype not in _NAMES:
            raise ValueError(f"{name} cannot be stored: {tensor.dtype} on {tensor.device}")
        entries[name] = Entry(_NAMES[tensor.dtype], tuple(tensor.shape), tensor.nbytes)
    with path.open("wb") as file:
        file.write(header_of(entries))
        for name in names:
            values = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8)
            for piece in torch.split(values, _PIECE):
                file.write(piece.numpy().data)
                written(piece.nbytes)
