"""The kernels of a forward: what each can serve, and the choice between Triton and plain torch."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final, Literal

import torch
from torch import Tensor

from virnucpro_core.models.attention import Backend
from virnucpro_core.models.kernels import add_norm, gelu, quantise, rotation, segment_means
from virnucpro_core.models.kernels.rotary_attention import (
    RotaryAttention,
    rotate_then_attend,
    short_by_kernel,
)
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.options import AUTO
from virnucpro_core.wording import one_line

TRITON: Final = "triton"
TORCH: Final = "torch"
LONGEST_FUSED = 384
"""Rows of the longest segment whose rotary embedding and attention are one kernel. Above it two steps are faster:
measured on an H200 at 2,560 and 1,280 dimensions, with flash-attn 2.8 and with torch's varlen_attn."""
_WIDEST = 16384
"""A row of the normalised width is held in registers."""
_FUSED_HEADS = (16, 24, 32, 64, 128)


class KernelsUnavailable(RuntimeError):
    """The kernels that were asked for by name cannot serve; the message says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """What kernels are to serve: a device, the type of the matrix products, and a model's widths."""

    device: torch.device
    dtype: torch.dtype
    dim: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Kernels:
    """The functions of one forward; each is as the module of its name in this package describes it.

    Attributes:
        name: "triton", or "torch" if all are plain torch.
        refusals: kernels that plain torch stands in for, and why, by name; under "triton" if none can serve.
        fused_attention: are rotary embedding and attention of short segments one kernel?
    """

    name: Literal["triton", "torch"]
    add_norm: Callable[[Tensor, Tensor | None, Tensor, Tensor, float, torch.dtype], Tensor]
    gelu: Callable[[Tensor], Tensor]
    add_norm_quantise: Callable[[Tensor, Tensor | None, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    gelu_quantise: Callable[[Tensor], tuple[Tensor, Tensor]]
    rotate: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    fused_attention: bool
    refusals: dict[str, str] = field(default_factory=dict)

    def attention(
        self, layout: PackedLayout, dtype: torch.dtype, cos: Tensor, sin: Tensor, backend: Backend
    ) -> RotaryAttention:
        """Rotary embedding and attention of one batch, for all layers of a forward.

        Args:
            layout: the batch, on the device of the forward.
            dtype: of q, k and v.
            cos, sin: float32 [longest segment or more, head size / 2].
            backend: the attention back-end where rotary embedding and attention are apart.
        """

        def apart(part: PackedLayout) -> RotaryAttention:
            return rotate_then_attend(part, cos, sin, backend.bind(part, dtype), self.rotate)

        if not self.fused_attention:
            return apart(layout)
        from virnucpro_core.models.kernels.rotary_attention_triton import QUERIES, rotary_attention

        def fused(qkv: Tensor, out: Tensor, tiles: Tensor) -> None:
            rotary_attention(qkv, cos, sin, layout.cu_seqlens, tiles, out)

        return short_by_kernel(layout, fused, LONGEST_FUSED, QUERIES, apart)

    def attention_in_tiles(self, bounds: Tensor, tiles: Tensor, cos: Tensor, sin: Tensor) -> RotaryAttention:
        """As `attention`, where it is fused, over the segments that tiles name, see `query_tiles`; other rows of the
        result are left as they are. Nothing is derived from lengths on the host.

        Args:
            bounds: int32 [segments + 1], on the device.
            tiles: int32 [tiles, 2], on the device.
            cos, sin: float32 [`LONGEST_FUSED` or more, head size / 2].
        """
        from virnucpro_core.models.kernels.rotary_attention_triton import rotary_attention

        def attend(qkv: Tensor) -> Tensor:
            out = qkv.new_empty(len(qkv), qkv[0, 0].numel())
            rotary_attention(qkv, cos, sin, bounds, tiles, out)
            return out

        return attend


PLAIN = Kernels(
    TORCH,
    add_norm.add_norm,
    gelu.gelu,
    add_norm.add_norm_quantise,
    quantise.gelu_quantise,
    rotation.rotate,
    fused_attention=False,
)
"""Plain torch, anywhere."""


def triton_refusal(device: torch.device) -> str | None:
    """Why Triton cannot serve on that device, or None if it can; the first call on a device runs a small kernel."""
    if device.type != "cuda":
        return f"needs a CUDA device, not {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "needs compute capability 8.0 or higher"
    return _trial(device)


@cache
def _trial(device: torch.device) -> str | None:
    try:
        from triton.errors import TritonError

        from virnucpro_core.models.kernels.gelu_triton import gelu as kernel
    except ImportError as error:
        return f"Triton cannot be imported ({one_line(error)})"
    # Triton builds its launcher with the machine's C compiler: a slim image can have the package and no way to run.
    try:
        with torch.cuda.device(device):
            kernel(torch.ones(8, dtype=torch.float16, device=device))
    except (TritonError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return f"Triton cannot run a kernel ({one_line(error)})"
    return None


def _dtype_refusal(case: Case) -> str | None:
    if case.dtype not in (torch.float16, torch.bfloat16):
        return f"needs fp16 or bf16, not {str(case.dtype).removeprefix('torch.')}"
    return None


def _add_norm_refusal(case: Case) -> str | None:
    return None if 2 <= case.dim <= _WIDEST else f"needs a width of 2 to {_WIDEST}, not {case.dim}"


def _gelu_quantise_refusal(case: Case) -> str | None:
    most = _WIDEST // 4
    return None if case.dim <= most else f"needs a width of up to {most}, not {case.dim}"


def _rotate_refusal(case: Case) -> str | None:
    return None if case.head_dim <= 256 else f"needs a head size of up to 256, not {case.head_dim}"


def _rotary_attention_refusal(case: Case) -> str | None:
    if case.head_dim not in _FUSED_HEADS:
        return f"needs a head size of {', '.join(map(str, _FUSED_HEADS))}, not {case.head_dim}"
    return None


def _none(case: Case) -> str | None:
    return None


REFUSALS: dict[str, Callable[[Case], str | None]] = {
    "add_norm": _add_norm_refusal,
    "gelu": _none,
    "gelu_quantise": _gelu_quantise_refusal,
    "rotate": _rotate_refusal,
    "rotary_attention": _rotary_attention_refusal,
}
"""Why each kernel cannot serve, or None if it can, where Triton and the type serve at all."""


def choose_kernels(name: str, case: Case) -> Kernels:
    """Triton's kernels where they can serve, plain torch for the others.

    Args:
        name: "auto"; "triton", which must then be able to run; or "torch".

    Raises:
        ValueError: unknown kernels.
        KernelsUnavailable: Triton's were asked for and cannot run here.
    """
    if name not in (AUTO, TRITON, TORCH):
        raise ValueError(f"unknown kernels {name!r}; known: {AUTO}, {TRITON}, {TORCH}")
    if name == TORCH:
        return PLAIN
    reason = triton_refusal(case.device) or _dtype_refusal(case)
    if reason is not None:
        if name == TRITON:
            raise KernelsUnavailable(f"Triton's kernels cannot serve: {reason}")
        return replace(PLAIN, refusals={TRITON: reason})
    refused = {each: why for each, refusal in REFUSALS.items() if (why := refusal(case)) is not None}
    from virnucpro_core.models.kernels import add_norm_triton, gelu_triton, quantise_triton, rotation_triton

    norm = PLAIN if "add_norm" in refused else add_norm_triton
    return Kernels(
        TRITON,
        norm.add_norm,
        gelu_triton.gelu,
        norm.add_norm_quantise,
        PLAIN.gelu_quantise if "gelu_quantise" in refused else quantise_triton.gelu_quantise,
        PLAIN.rotate if "rotate" in refused else rotation_triton.rotate,
        fused_attention="rotary_attention" not in refused,
        refusals=refused,
    )


def means_of_segments(rows: Tensor, bounds: Tensor, skip: int) -> Tensor:
    """As `segment_means.segment_means`, by the kernel where it can serve and no gradient is wanted."""
    if torch.is_grad_enabled() or triton_refusal(rows.device) is not None:
        return segment_means.segment_means(rows, bounds, skip)
    from virnucpro_core.models.kernels.segment_means_triton import segment_means as fused

    with torch.cuda.device(rows.device):
        return fused(rows, bounds, skip)
