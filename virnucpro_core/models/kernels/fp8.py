"""Matrix products in fp8, activations and weights with one scale a row, by `torch._scaled_mm`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from virnucpro_core.models.kernels.quantise import quantise_rows
from virnucpro_core.wording import one_line


@dataclass(frozen=True, eq=False, slots=True)
class Fp8Linear:
    """A linear layer whose product is in fp8.

    Attributes:
        weight: fp8 [in, out], the transpose of a row-major [out, in], as the product wants it.
        scales: float32 [1, out].
        bias: float16 or bfloat16 [out], the type of the result.
    """

    weight: Tensor
    scales: Tensor
    bias: Tensor

    @classmethod
    def quantise(cls, weight: Tensor, bias: Tensor) -> Fp8Linear:
        """From a linear layer's float weight [out, in], quantised row by row, and 16-bit bias [out]."""
        rows, scales = quantise_rows(weight)
        return cls(rows.t(), scales[None], bias)

    @classmethod
    def of(cls, linear: nn.Linear) -> Fp8Linear:
        """From a linear layer, of which only the bias is kept."""
        return cls.quantise(linear.weight.detach(), linear.bias.detach())

    def __call__(self, x: Tensor, scales: Tensor) -> Tensor:
        """The layer's output; `plain`, where there is no CUDA device.

        Args:
            x, scales: fp8 [rows, in] and float32 [rows], from `quantise_rows` or a kernel that does the same.

        Returns:
            [rows, out] in the bias's type. A row depends on its own row of `x` alone.
        """
        if x.device.type != "cuda":
            return self.plain(x, scales)
        return torch._scaled_mm(
            x,
            self.weight,
            scale_a=scales[:, None],
            scale_b=self.scales,
            bias=self.bias,
            out_dtype=self.bias.dtype,
            use_fast_accum=True,
        )

    def plain(self, x: Tensor, scales: Tensor) -> Tensor:
        """As calling it, but the values are widened to fp32 and the product is computed there."""
        product = (x.float() @ self.weight.float()) * scales[:, None] * self.scales
        return (product + self.bias.float()).to(self.bias.dtype)


def fp8_refusal(device: torch.device, dtype: torch.dtype, dim: int) -> str | None:
    """Why products of that width cannot be in fp8 with results in `dtype`, or None if they can.

    The first call for a device and type that could serve computes a small product.
    """
    if device.type != "cuda":
        return f"needs a CUDA device, not {device.type}"
    if torch.cuda.get_device_capability(device) < (9, 0):
        return "needs a GPU of compute capability 9.0 or higher"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"needs fp16 or bf16 beside it, not {str(dtype).removeprefix('torch.')}"
    if dim % 16:
        return f"needs a width that is a multiple of 16, not {dim}"
    return _trial(device, dtype)


@cache
def _trial(device: torch.device, dtype: torch.dtype) -> str | None:
    # torch's function is private, and older versions, or builds for other GPUs, lack some of its forms.
    linear = Fp8Linear.quantise(
        torch.ones(32, 32, device=device), torch.zeros(32, dtype=dtype, device=device)
    )
    try:
        linear(*quantise_rows(torch.ones(32, 32, device=device)))
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        return f"cannot be computed by torch {torch.__version__} ({one_line(error)})"
    return None
