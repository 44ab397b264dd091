"""The share of a budget: max-min fair, with one share left for the partition that holds least."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.shares import fair_share

HELD = st.lists(st.integers(0, 10_000), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("held", "share"),
    [
        ([0], 100),
        ([500], 100),
        ([100, 0], 50),
        ([30, 0], 70),
        ([100, 100, 0, 0], 100 / 3),
        ([100, 10, 0], 45),
        ([100, 100, 100, 100], 25),
        ([60, 60, 5], 100 / 3),
    ],
)
def test_what_one_partition_may_hold_of_a_budget_of_100(held, share):
    assert fair_share(held, 100) == pytest.approx(share)


@given(HELD, st.integers(1, 20_000))
def test_shares_use_the_budget_and_leave_one_for_the_smallest(held, budget):
    share = fair_share(held, budget)
    used = sum(min(amount, share) for amount in sorted(held)[1:]) + share
    assert used <= budget * (1 + 1e-9)
    assert used * (1 + 1e-9) >= budget or share >= max(held), "no larger share would do"
    assert share >= budget / len(held) * (1 - 1e-9), "never less than an equal part"


@given(HELD, st.integers(1, 20_000))
def test_the_order_of_the_partitions_does_not_matter(held, budget):
    assert fair_share(held, budget) == fair_share(held[::-1], budget)


@given(HELD, st.integers(1, 20_000))
def test_no_share_is_under_half_a_budget_while_no_more_than_half_is_used(held, budget):
    if 2 * sum(held) <= budget:
        assert fair_share(held, budget) >= max(held)
