"""Where the GPU's time goes in a forward: by kind of kernel, and between kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "cublas"),
    "attention": ("attention", "flash", "fmha"),
    "add, norm": ("add_norm",),
    "gelu": ("gelu",),
    "quantise": ("quantise",),
    "rotary": ("rotary", "rotate"),
    "pooling": ("segment",),
    "copies": ("memcpy", "memset", "copy"),
}
"""By what is in a kernel's name; the first that fits counts."""
_OTHER, _IDLE = "other", "idle between kernels"


def kernel_times(work: Callable[[], object], times: int = 3) -> dict[str, float]:
    """The share of each kind of kernel in the time from the first kernel to the end of the last, of some calls."""
    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(times):
            work()
        torch.cuda.synchronize()
    return shares(
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if str(event.device_type) == "DeviceType.CUDA"
    )


def shares(kernels: Iterable[tuple[str, float, float]]) -> dict[str, float]:
    """(name, start, end) of kernels that run one after another -> the share of each kind, largest first; what no kernel
    fills is idle."""
    found = sorted(kernels, key=lambda kernel: kernel[1])
    if not found:
        return {}
    spent: dict[str, float] = {}
    whole = max(end for _, _, end in found) - found[0][1]
    until = found[0][1]
    for name, start, end in found:
        spent[_IDLE] = spent.get(_IDLE, 0.0) + max(0.0, start - until)
        kind = kind_of(name, KINDS)
        spent[kind] = spent.get(kind, 0.0) + max(0.0, end - max(start, until))
        until = max(until, end)
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return {kind: round(time / whole, 4) for kind, time in ordered if time}


def kind_of(name: str, kinds: Mapping[str, Sequence[str]]) -> str:
    """The first kind of which something is in a name, in lower case; "other" if none is."""
    lower = name.lower()
    return next((kind for kind, parts in kinds.items() if any(part in lower for part in parts)), _OTHER)
