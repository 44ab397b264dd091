"""How partitions share a budget: one that takes more than its share is held back, and room is kept for the others.

The *share* of a budget is the largest amount that each partition may hold so that the one that holds least still has a
whole share left: max-min fairness with one share in reserve. One partition alone gets the whole budget, one busy
partition beside idle ones half of it, two a third each, and `n` busy ones a `n`th each. The idea is that of dynamic
thresholds for a switch's shared memory (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
switches", IEEE/ACM Transactions on Networking 6(2), 1998).
"""

from __future__ import annotations

from collections.abc import Iterable


def fair_share(held: Iterable[float], budget: float) -> float:
    """The largest amount T with sum of min(held, T) over all but the smallest, and T for that one, at most `budget`.

    Args:
        held: what each partition that may hold something holds, 0 included.
        budget: of all of them together.
    """
    largest_first = sorted(held, reverse=True)[:-1]
    rest = sum(largest_first)
    for capped, amount in enumerate(largest_first):
        share = (budget - rest) / (capped + 1)
        if share >= amount:
            return share
        rest -= amount
    return budget / (len(largest_first) + 1)
