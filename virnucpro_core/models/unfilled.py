"""Modules without weights, to be filled from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS = (Tensor.normal_, Tensor.uniform_)


class _NotDrawn(TorchFunctionMode):
    """Leaves out the first weights of modules, which a tensor without memory cannot hold anyway.

    On the device meta torch computes them, and what is computed of a range, by its reference implementation, which
    loads its compiler and sympy: 900 modules, 190 MB of memory and seconds of every start.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in _DRAWS or getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else dict(kwargs or {})["tensor"]
        if (
            function is torch.arange
        ):  # what fair-esm computes of it is small, and is replaced by what the file holds
            return function(*args, **({"device": "cpu"} | dict(kwargs or {})))
        return function(*args, **(kwargs or {}))


@contextmanager
def unfilled() -> Iterator[None]:
    """Modules that are made within this context have parameters of their shapes on the device meta, without memory."""
    with torch.device("meta"), _NotDrawn():
        yield
