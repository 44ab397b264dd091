"""Where a processor's time goes in the engine, by kind of operator; how near the matrix products are to the limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.kernel_times import kind_of

KINDS = {
    "matrix products": ("aten::addmm", "aten::mm"),
    "attention": ("scaled_dot_product",),
    "gelu": ("gelu",),
    "norms": ("layer_norm", "batch_norm"),
    "gather, copy": ("index_select", "copy_", "aten::cat", "gather"),
    "rotary, sums, masks": ("aten::mul", "aten::sub", "aten::add", "aten::neg", "masked_fill"),
}
"""By what is in an operator's name; the first that fits counts."""
_SQUARE = 2048
_TIMES = 5


def operator_times(work: Callable[[], object]) -> dict[str, Any]:
    """The share of each kind of operator in the time of all, on the thread that calls them; and GFLOP/s in fp32 of the
    matrix products, beside those of a large square one."""
    work()
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiler:
        work()
    spent: dict[str, float] = {}
    flops = 0
    for event in profiler.key_averages():
        kind = kind_of(event.key, KINDS)
        spent[kind] = spent.get(kind, 0.0) + event.self_cpu_time_total
        flops += event.flops if kind == "matrix products" else 0
    total = sum(spent.values())
    return {
        "shares": {
            kind: round(time_ / total, 4) for kind, time_ in sorted(spent.items(), key=lambda item: -item[1])
        },
        "products_gflops": round(flops / spent["matrix products"] / 1e3, 1),  # of microseconds
        "square_gflops": round(_square_gflops(), 1),
    }


def _square_gflops() -> float:
    a, b = torch.randn(_SQUARE, _SQUARE), torch.randn(_SQUARE, _SQUARE)
    torch.mm(a, b)
    begun = time.perf_counter()
    for _ in range(_TIMES):
        torch.mm(a, b)
    return 2 * _SQUARE**3 * _TIMES / (time.perf_counter() - begun) / 1e9
