"""Sizes a deployment: from tokens a second of one process to processes, partitions, the chart's values and disk.

    python deploy/sizing.py --tokens-per-s 97000 --record-bases 10000 --records-per-s 100

It needs nothing but Python. docs/sizing.md has the formulas, and where the numbers come from.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

LEAST_INFLIGHT = 2000
"""VIRNUCPRO_MAX_INFLIGHT_RECORDS if unset."""
BATCHES_IN_FLIGHT = 4
"""So many batches of records are read ahead of the device."""


@dataclass(frozen=True)
class Load:
    """What is to be answered, and by what.

    Attributes:
        tokens_per_s: protein tokens a second of one process.
        tokens_per_base: protein tokens for each base of the input.
        record_bases: mean bases of a record.
        records_per_s: at the busiest time.
        use: share of a process's speed to plan with.
        wait_s: seconds that a record may wait while the scaler acts.
        token_budget: VIRNUCPRO_TOKEN_BUDGET.
        retention_hours: of the input topic.
        message_bytes: of a base, as stored on the broker.
        replication: copies of the input topic.
    """

    tokens_per_s: float
    record_bases: float
    records_per_s: float
    tokens_per_base: float = 0.2
    use: float = 0.7
    wait_s: float = 60.0
    token_budget: int = 16_384
    retention_hours: float = 72.0
    message_bytes: float = 1.0
    replication: int = 3


@dataclass(frozen=True)
class Size:
    """The answer; the units are those of `lines`."""

    tokens_per_record: float
    records_per_s: float
    processes: int
    partitions: int
    lag_threshold: int
    activation_lag_threshold: int
    max_inflight_records: int
    disk_gb: float


def size(load: Load) -> Size:
    """The least that serves the load.

    Raises:
        ValueError: a number that is not above 0, or a share of use above 1.
    """
    wrong = [name for name, value in vars(load).items() if not (value > 0 and math.isfinite(value))]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: must be above 0")
    if load.use > 1:
        raise ValueError("use: a share, at most 1")
    tokens = load.record_bases * load.tokens_per_base
    rate = load.tokens_per_s / tokens
    processes = math.ceil(load.records_per_s / (rate * load.use))
    partitions = 2 * processes
    stored = load.record_bases * load.message_bytes * load.records_per_s
    return Size(
        tokens_per_record=tokens,
        records_per_s=rate,
        processes=processes,
        partitions=partitions,
        # Transactions leave a lag of 1 a partition that never goes away: it must not matter.
        lag_threshold=max(math.floor(rate * load.wait_s), 10 * partitions),
        activation_lag_threshold=partitions,
        max_inflight_records=max(LEAST_INFLIGHT, math.ceil(BATCHES_IN_FLIGHT * load.token_budget / tokens)),
        disk_gb=stored * load.retention_hours * 3600 * load.replication / 1e9,
    )


def lines(found: Size) -> list[str]:
    """The answer as text."""
    rows = {
        "a record": f"{found.tokens_per_record:,.0f} tokens",
        "one process answers": f"{found.records_per_s:,.1f} records/s",
        "autoscaling.maxReplicas": found.processes,
        "partitions of each topic": found.partitions,
        "autoscaling.lagThreshold": found.lag_threshold,
        "autoscaling.activationLagThreshold": found.activation_lag_threshold,
        "VIRNUCPRO_MAX_INFLIGHT_RECORDS": found.max_inflight_records,
        "disk of the input topic": f"{found.disk_gb:,.0f} GB",
    }
    return [f"{name:<36}{value}" for name, value in rows.items()]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    required = "tokens_per_s", "record_bases", "records_per_s"
    kinds = {"token_budget": int, "replication": int}
    for name in Load.__dataclass_fields__:
        kind, option = kinds.get(name, float), "--" + name.replace("_", "-")
        if name in required:
            parser.add_argument(option, type=kind, required=True)
        else:
            parser.add_argument(option, type=kind, default=getattr(Load, name), help="default: %(default)s")
    try:
        found = size(Load(**vars(parser.parse_args())))
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
