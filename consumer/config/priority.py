"""VIRNUCPRO_PRIORITY: what the settings of batches and limits are where they are not set themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Priority = Literal["balanced", "latency", "throughput"]

PRIORITIES: Mapping[str, Mapping[str, Any]] = {
    "balanced": {},
    # Answers are seen when they are committed. A batch of a quarter is done in a quarter of the time.
    "latency": {"max_wait_ms": 5, "commit_interval_ms": 20},
    # Results wait in memory for their transaction, so rare commits need more records in flight.
    "throughput": {
        "token_budget": "auto",
        "max_wait_ms": 500,
        "max_inflight_records": 20_000,
        "max_inflight_bytes": 256 << 20,
        "commit_interval_ms": 500,
    },
}
"""Priority -> field -> its default; all other fields keep theirs."""

BUDGET_SHARES: Mapping[str, int] = {"balanced": 1, "latency": 4, "throughput": 1}
"""Priority -> by what the device's own token budget is divided."""


def preferred(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and those that their priority gives to fields without one."""
    return {**PRIORITIES.get(str(values.get("priority")), {}), **values}
