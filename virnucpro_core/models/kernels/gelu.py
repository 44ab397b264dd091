"""gelu with erf (Hendrycks and Gimpel, 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def gelu(x: Tensor) -> Tensor:
    """x * P(N(0, 1) <= x), in place: the plain form of `gelu_triton.gelu`.

    Args:
        x: float [...], changed in place.

    Returns:
        `x`. Computed in fp32 and rounded once; not the tanh form.
    """
    return x.copy_(F.gelu(x))
