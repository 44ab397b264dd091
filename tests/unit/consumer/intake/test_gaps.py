"""What counts as input that was deleted unread, and what the service does until it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from consumer.errors import ServiceError
from consumer.intake.gaps import Gaps, Skip
from consumer.types import Partition
from tests.support.factories import FakeClock, partition

P, Q = partition(0), partition(1)


class Bench:
    """`Gaps` over logs whose starts a test sets."""

    def __init__(self, on_gap: str = "continue", **options: Any) -> None:
        self.starts: dict[Partition, int] = {}
        self.questions: list[list[Partition]] = []
        self.skips: list[Skip] = []
        self.clock = FakeClock()
        self.gaps = Gaps(self._ask, self.skips.append, on_gap, clock=self.clock, **options)  # type: ignore[arg-type]

    def _ask(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self.questions.append(list(partitions))
        return {partition: self.starts[partition] for partition in partitions if partition in self.starts}


@pytest.fixture
def make() -> type[Bench]:
    return Bench


def test_offsets_in_a_row_ask_nothing(make):
    bench = make()
    bench.gaps.begin(P, 7)
    for offset in (7, 8, 9, 9, 4, 5):
        bench.gaps.read(P, offset)
        assert bench.gaps.settle()
    assert bench.questions == []


@pytest.mark.parametrize(
    ("log_start", "end"),
    [(0, None), (7, None), (8, 8), (50, 50), (100, 100), (400, 100)],
)
def test_a_gap_is_a_skip_as_far_as_it_lies_before_the_log_start(make, log_start, end):
    bench = make()
    bench.starts[P] = log_start
    bench.gaps.begin(P, 7)
    bench.gaps.read(P, 100)
    assert bench.gaps.settle()
    assert bench.skips == ([] if end is None else [Skip(P, 7, end)])


def test_a_client_that_goes_to_the_end_skips_what_lies_between_too(make):
    bench = make(to_the_end=True)
    bench.starts |= {P: 50, Q: 0}
    for each in (P, Q):
        bench.gaps.begin(each, 7)
        bench.gaps.read(each, 100)
    assert bench.gaps.settle()
    assert bench.skips == [Skip(P, 7, 100)]


def test_without_a_place_to_begin_nothing_is_skipped(make):
    bench = make()
    bench.starts[P] = 100
    bench.gaps.read(P, 100)
    assert bench.gaps.settle()
    assert bench.skips == []


def test_what_begins_at_the_log_start_begins_where_that_is_when_it_is_known(make):
    bench = make()
    bench.gaps.begin_at_log_start(P)
    assert bench.gaps.settle(), "nothing is read that could be committed"
    bench.starts[P] = 30
    bench.clock.advance(1)
    assert bench.gaps.settle()
    bench.starts[P] = 50
    bench.gaps.read(P, 50)
    assert bench.gaps.settle()
    assert bench.skips == [Skip(P, 30, 50)]
    assert bench.questions == [[P]] * 3


def test_what_was_read_before_the_log_start_was_known_leaves_nothing_to_ask(make):
    bench = make()
    bench.gaps.begin_at_log_start(P)
    bench.gaps.read(P, 50)
    bench.gaps.begin_at_log_start(Q)
    bench.gaps.forget([Q])
    assert bench.gaps.settle()
    assert (bench.questions, bench.skips) == ([], [])


def test_a_client_that_goes_to_the_end_does_not_begin_at_the_log_start(make):
    bench = make(to_the_end=True)
    bench.starts[P] = 30
    bench.gaps.begin_at_log_start(P)
    assert bench.gaps.settle()
    bench.gaps.read(P, 50)
    assert bench.gaps.settle()
    assert bench.skips == []


def test_all_gaps_of_a_turn_are_one_question(make):
    bench = make()
    bench.starts |= {P: 20, Q: 0}
    for each in (P, Q):
        for offset in range(0, 40, 10):
            bench.gaps.read(each, offset)
    assert bench.gaps.settle()
    assert bench.questions == [[P, Q]]
    assert bench.skips == [Skip(P, 1, 10), Skip(P, 11, 20)]


def test_what_is_not_told_is_asked_again_and_unsettled_till_then(make):
    bench = make()
    bench.starts[Q] = 0
    for each in (P, Q):
        bench.gaps.read(each, 0)
        bench.gaps.read(each, 5)
    assert [bench.gaps.settle() for _ in range(3)] == [False] * 3
    assert bench.questions == [[P, Q]]
    bench.starts[P] = 3
    bench.clock.advance(1)
    assert bench.gaps.settle()
    assert bench.questions == [[P, Q], [P]]
    assert bench.skips == [Skip(P, 1, 3)]


def test_a_partition_that_went_away_leaves_no_question(make):
    bench = make()
    bench.gaps.read(P, 0)
    bench.gaps.read(P, 5)
    assert not bench.gaps.settle()
    bench.gaps.forget([P])
    bench.gaps.read(P, 50)
    assert bench.gaps.settle()


def test_a_service_that_is_to_stop_says_where_and_how_to_go_on(make):
    bench = make("stop")
    bench.starts[P] = 9
    bench.gaps.begin(P, 7)
    bench.gaps.read(P, 20)
    with pytest.raises(
        ServiceError, match=r"partition 0 of sequences, offsets 7 to 8: .*VIRNUCPRO_ON_GAP=continue"
    ):
        bench.gaps.settle()
    assert bench.skips == [Skip(P, 7, 9)], "reported all the same"
