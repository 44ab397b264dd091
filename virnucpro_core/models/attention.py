"""Attention over packed segments: the back-ends, what each can serve, and the choice among them.

| back-end   | where            | precision  | ALiBi         | same bits in any batch |
| ---------- | ---------------- | ---------- | ------------- | ---------------------- |
| flash_attn | CUDA, sm80 or up | fp16, bf16 | in the kernel | yes                    |
| varlen     | CUDA, sm80 or up | fp16, bf16 | no            | yes                    |
| sdpa       | anywhere         | any        | additive mask | yes                    |

All of them scale by 1/sqrt(head size), attend in both directions and are differentiable.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.options import AUTO
from virnucpro_core.wording import one_line

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q, k, v [rows, heads, head size] -> [rows, heads, head size], for the one layout that it is bound to."""


class BackendUnavailable(RuntimeError):
    """No attention back-end, or not the one asked for by name, can serve; the message says why."""


class Backend(ABC):
    """One way to compute attention."""

    name: ClassVar[str]

    @abstractmethod
    def refusal(self, device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool) -> str | None:
        """Why this back-end cannot serve, or None if it can."""

    @abstractmethod
    def bind(self, layout: PackedLayout, dtype: torch.dtype, slopes: Tensor | None = None) -> Attention:
        """The attention of one batch, for all layers of a forward.

        Args:
            layout: the batch, on the device of the forward.
            dtype: of q, k and v.
            slopes: float32 [heads] on that device; -slope * |i - j| is added to the scores.
        """


def _fused_kernel_refusal(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    if device.type != "cuda":
        return f"needs a CUDA device, not {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "needs compute capability 8.0 or higher"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"needs fp16 or bf16, not {str(dtype).removeprefix('torch.')}"
    if head_dim % 8 or head_dim > 256:
        return f"needs a head size that is a multiple of 8 up to 256, not {head_dim}"
    return None


@cache
def _flash_attn() -> tuple[Callable[..., Any] | None, str]:
    """flash-attn 2's function, or why it is not there; the package alone proves nothing, FA4 shares its name."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as error:
        return None, one_line(error)
    return flash_attn_varlen_func, ""


@cache
def _varlen_attn() -> tuple[Callable[..., Any] | None, dict[str, Any], str]:
    """torch's function, the options that make its bits independent of the batch, or why it is not there."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        return None, {}, one_line(error)
    # Left to choose, newer versions split keys by the longest segment of the batch, or go to another library.
    options = {"num_splits": 1} if "num_splits" in inspect.signature(varlen_attn).parameters else {}
    return varlen_attn, options, ""


class FlashAttn(Backend):
    """flash-attn 2, variable length."""

    name = "flash_attn"

    def refusal(self, device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool) -> str | None:
        reason = _fused_kernel_refusal(device, dtype, head_dim)
        if reason is None and _flash_attn()[0] is None:
            return f"flash-attn 2 cannot be imported ({_flash_attn()[1]})"
        return reason

    def bind(self, layout: PackedLayout, dtype: torch.dtype, slopes: Tensor | None = None) -> Attention:
        return self.bind_bounds(layout.cu_seqlens, layout.max_seqlen, slopes)

    def bind_bounds(self, bounds: Tensor, longest: int, slopes: Tensor | None = None) -> Attention:
        """As `bind`, for segments of up to `longest` rows at the bounds, int32 [segments + 1], that are on the device
        when it runs; segments may be empty. Rows of no segment get any values."""
        function, reason = _flash_attn()
        if function is None:
            raise BackendUnavailable(f"flash_attn: {reason}")

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = function(q, k, v, bounds, bounds, longest, longest, alibi_slopes=slopes)
            return out

        return attend


class Varlen(Backend):
    """torch's own variable-length attention, torch 2.10 or newer."""

    name = "varlen"

    def refusal(self, device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool) -> str | None:
        if alibi:
            return "torch's varlen_attn has no ALiBi"
        reason = _fused_kernel_refusal(device, dtype, head_dim)
        if reason is None and _varlen_attn()[0] is None:
            return f"needs torch 2.10 or newer, not {torch.__version__} ({_varlen_attn()[2]})"
        return reason

    def bind(self, layout: PackedLayout, dtype: torch.dtype, slopes: Tensor | None = None) -> Attention:
        function, options, reason = _varlen_attn()
        if function is None or slopes is not None:
            raise BackendUnavailable(f"varlen: {reason or 'no ALiBi'}")
        bounds, longest = layout.cu_seqlens, layout.max_seqlen

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = function(q, k, v, bounds, bounds, longest, longest, **options)
            return out

        return attend


class Sdpa(Backend):
    """torch's scaled_dot_product_attention on segments padded to their own rounded length, always masked."""

    name = "sdpa"

    def refusal(self, device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool) -> str | None:
        if device.type == "cuda" and head_dim % 8:
            return f"needs a head size that is a multiple of 8 on CUDA, not {head_dim}"
        return None

    def bind(self, layout: PackedLayout, dtype: torch.dtype, slopes: Tensor | None = None) -> Attention:
        plan = layout.padded_rows
        # Rounded to 16 bits a bias is up to 0.03 off, and the kernels want mask and values of one type.
        inner = torch.float32 if slopes is not None else dtype
        masks = [_mask(bucket.valid, inner, slopes) for bucket in plan.buckets]
        on_cuda = layout.device.type == "cuda"

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out_dtype = q.dtype
            q, k, v = q.to(inner), k.to(inner), v.to(inner)
            outputs = []
            with _fixed_kernel() if on_cuda else nullcontext():
                for bucket, mask in zip(plan.buckets, masks, strict=True):
                    query, key, value = (_pad(x, bucket.gather) for x in (q, k, v))
                    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
                    outputs.append(out.transpose(1, 2))
            return plan.repack(outputs).to(out_dtype)

        return attend


def _fixed_kernel() -> AbstractContextManager[None]:
    # Left to choose, torch may take another kernel, with other bits, for another number of segments.
    kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION)
    return kernel


def _pad(x: Tensor, gather: Tensor) -> Tensor:
    """[rows, heads, size] -> [segments, heads, width, size]."""
    return x.index_select(0, gather.flatten()).view(*gather.shape, *x.shape[1:]).transpose(1, 2)


def _mask(valid: Tensor, dtype: torch.dtype, slopes: Tensor | None) -> Tensor:
    """What is added to the scores: [segments, 1, 1, width], with ALiBi [segments, heads, width, width]."""
    mask = torch.zeros(valid.shape, dtype=dtype, device=valid.device)
    mask = mask.masked_fill(~valid, float("-inf"))[:, None, None, :]
    if slopes is None:
        return mask
    place = torch.arange(valid.shape[1], device=valid.device)
    distance = (place[:, None] - place[None, :]).abs().to(dtype)
    return mask - slopes[None, :, None, None] * distance


BACKENDS: tuple[Backend, ...] = (FlashAttn(), Varlen(), Sdpa())
"""In the order in which `auto` tries them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The back-end that serves, and why those before it do not (by name)."""

    backend: Backend
    refusals: dict[str, str]


def choose_backend(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool) -> Choice:
    """The first back-end that can serve, or the one of that name.

    Raises:
        ValueError: unknown back-end.
        BackendUnavailable: the named one, or with "auto" any, cannot serve.
    """
    candidates = [backend for backend in BACKENDS if name in (AUTO, backend.name)]
    if not candidates:
        known = ", ".join([AUTO, *(backend.name for backend in BACKENDS)])
        raise ValueError(f"unknown attention back-end {name!r}; known: {known}")
    refusals: dict[str, str] = {}
    for backend in candidates:
        reason = backend.refusal(device, dtype, head_dim, alibi)
        if reason is None:
            return Choice(backend, refusals)
        refusals[backend.name] = reason
    reasons = "; ".join(f"{refused}: {reason}" for refused, reason in refusals.items())
    raise BackendUnavailable(f"no attention back-end can serve: {reasons}")


def packed_choice(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Choice | None:
    """As `choose_backend` for ESM-2, but None when "auto" finds nothing: then its standard path serves."""
    try:
        return choose_backend(name, device, dtype, head_dim, alibi=False)
    except BackendUnavailable:
        if name != AUTO:
            raise
        return None


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The type in which matrix products with `weight` are computed: its own, or autocast's."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
