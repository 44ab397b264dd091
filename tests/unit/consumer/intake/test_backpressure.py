"""Backpressure: a partition with its share is blocked; when all are: hold first, pause when that lasts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.intake.backpressure import Backpressure
from consumer.types import InFlight
from tests.support.factories import FakeClock, partition

NOTHING = InFlight(0, 0, 0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def backpressure(clock) -> Backpressure:
    return Backpressure(max_records=100, max_bytes=1000, max_tokens=50, hold_s=1.0, clock=clock)


def by_partition(*held: InFlight):
    return {partition(number): amounts for number, amounts in enumerate(held)}


class TestOnePartition:
    @pytest.mark.parametrize(
        "full", [InFlight(100, 0, 0), InFlight(0, 1000, 0), InFlight(0, 0, 50), InFlight(150, 5000, 90)]
    )
    def test_a_full_budget_holds_and_then_pauses(self, backpressure, clock, full):
        assert backpressure.level(by_partition(InFlight(99, 999, 49))) == "open"
        assert backpressure.level(by_partition(full)) == "hold"
        clock.advance(0.9)
        assert backpressure.level(by_partition(full)) == "hold"
        clock.advance(0.2)
        assert backpressure.level(by_partition(full)) == "pause"

    def test_it_opens_at_half_not_below_the_top(self, backpressure):
        for held, level in (
            (InFlight(100, 0, 0), "hold"),
            (InFlight(51, 0, 0), "hold"),
            (InFlight(50, 501, 0), "hold"),
            (InFlight(50, 500, 26), "hold"),
            (InFlight(50, 500, 25), "open"),
            (InFlight(99, 0, 0), "open"),
        ):
            assert backpressure.level(by_partition(held)) == level

    def test_a_second_hold_gets_its_own_time(self, backpressure, clock):
        full = by_partition(InFlight(100, 0, 0))
        backpressure.level(full)
        clock.advance(5)
        assert backpressure.level(full) == "pause"
        assert backpressure.level(by_partition(NOTHING)) == "open"
        assert backpressure.level(full) == "hold"

    @pytest.mark.parametrize(
        ("held", "limit"),
        [
            (InFlight(100, 0, 0), "records"),
            (InFlight(0, 2000, 60), "bytes"),
            (InFlight(100, 1000, 75), "tokens"),
        ],
    )
    def test_it_names_the_budget_that_stopped_reading_until_it_goes_on(self, backpressure, held, limit):
        assert backpressure.limit is None
        backpressure.level(by_partition(held))
        backpressure.level(by_partition(InFlight(60, 600, 30)))
        assert backpressure.limit == limit
        backpressure.level(by_partition(NOTHING))
        assert backpressure.limit is None


class TestSeveralPartitions:
    @pytest.mark.parametrize("busy", [InFlight(50, 0, 0), InFlight(0, 500, 0), InFlight(0, 0, 2_000_000)])
    def test_one_with_its_share_is_blocked_and_the_others_are_read(self, backpressure, clock, busy):
        held = by_partition(busy, NOTHING, InFlight(1, 10, 1))
        for _ in range(3):
            assert backpressure.level(held) == "open"
            assert backpressure.blocked == {partition(0)}
            clock.advance(5)

    def test_a_blocked_one_is_read_again_at_half_its_share(self, backpressure):
        """The share grows while the partition empties: with 34 held it is 66."""
        for records, blocked in ((49, False), (50, True), (34, True), (33, False), (49, False)):
            assert backpressure.level(by_partition(InFlight(records, 0, 0), NOTHING)) == "open"
            assert (partition(0) in backpressure.blocked) == blocked, records

    def test_a_genome_counts_with_its_share_however_large_it_is(self, backpressure):
        genome = InFlight(1, 10, 1_000_000)
        backpressure.level(by_partition(genome, InFlight(1, 1, 24)))
        assert backpressure.blocked == {partition(0)}
        backpressure.level(by_partition(genome, genome, InFlight(1, 1, 12), NOTHING))
        assert backpressure.blocked == {partition(0), partition(1)}

    def test_when_all_are_blocked_it_holds_and_then_pauses(self, backpressure, clock):
        held = by_partition(InFlight(50, 0, 0), InFlight(50, 0, 0))
        assert backpressure.level(held) == "hold"
        assert backpressure.limit == "records"
        clock.advance(1.1)
        assert backpressure.level(held) == "pause"
        assert backpressure.level(by_partition(InFlight(25, 0, 0), InFlight(50, 0, 0))) == "open"
        assert (backpressure.blocked, backpressure.limit) == ({partition(1)}, None)

    @pytest.mark.parametrize("over", [InFlight(11, 0, 0), InFlight(0, 101, 0)])
    def test_records_and_bytes_are_bounds_of_all_together(self, backpressure, over):
        """Ten partitions with a little more than a tenth each, beside one that has nothing."""
        assert backpressure.level(by_partition(*[over] * 10, NOTHING)) == "hold"

    def test_what_was_blocked_and_went_away_is_forgotten(self, backpressure):
        backpressure.level(by_partition(InFlight(60, 0, 0), NOTHING))
        backpressure.level({partition(1): NOTHING})
        assert not backpressure.blocked

    def test_without_an_assignment_it_is_open(self, backpressure):
        assert backpressure.level({}) == "open"


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 600), st.integers(0, 60)), min_size=1, max_size=8)
)
def test_the_partition_that_holds_least_is_blocked_only_when_a_bound_of_memory_is_reached_or_all_hold_much(
    rows,
):
    backpressure = Backpressure(max_records=100, max_bytes=1000, max_tokens=50)
    held = by_partition(*(InFlight(*row) for row in rows))
    total = InFlight(*(sum(column) for column in zip(*rows, strict=True)))
    assert not backpressure.is_clear(total) or backpressure.level(held) == "open"
    level = backpressure.level(held)
    if total.records >= 100 or total.bytes >= 1000:
        assert level == "hold"
    equal = InFlight(100 // len(rows), 1000 // len(rows), 50 // len(rows))
    if level != "open" and total.records < 100 and total.bytes < 1000:
        assert all(any(a >= b for a, b in zip(row, equal, strict=True)) for row in rows)


rows = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 600), st.integers(0, 60)), min_size=1, max_size=8
)


@given(rows, rows, st.data())
def test_what_is_read_within_the_room_blocks_nothing(before, rows, data):
    backpressure = Backpressure(max_records=100, max_bytes=1000, max_tokens=50)
    backpressure.level(by_partition(*(InFlight(*row) for row in before)))
    held = by_partition(*(InFlight(*row) for row in rows))
    total = InFlight(*(sum(column) for column in zip(*rows, strict=True)))
    if not backpressure.is_clear(total) and backpressure.level(held) != "open":
        assert backpressure.room == (0, 0, 0)
        return
    room, blocked = backpressure.room, backpressure.blocked
    if min(room) <= 0:
        return
    open_ones = [each for each in held if each not in blocked]
    for place in range(3):
        left = room[place] - 1
        for each in data.draw(st.permutations(open_ones)):
            read = data.draw(st.integers(0, left))
            left -= read
            amounts = list(held[each])
            amounts[place] += read
            held[each] = InFlight(*amounts)
    assert backpressure.level(held) == "open"
    assert backpressure.blocked <= blocked
