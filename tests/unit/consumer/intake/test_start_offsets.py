"""Where the reading of a partition begins: at the committed offset, whatever the client makes of a missing answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from consumer.intake.start_offsets import Positions
from tests.support.factories import FakeClock, at_once, partition
from tests.support.fake_kafka import FakeConsumer

UNKNOWN = KafkaError(KafkaError._TIMED_OUT)
P, Q = partition(0), partition(1)


class Bench:
    """`Positions` over a fake consumer that owns both partitions; `later` keeps answers back until `answer`."""

    def __init__(self) -> None:
        self.consumer, self.clock = FakeConsumer(), FakeClock()
        self.later = False
        self._waiting: list[tuple[Callable[[], list[TopicPartition]], Future[list[TopicPartition]]]] = []
        self.positions = Positions(self.consumer, self._ask, self._submit, self.clock)  # type: ignore[arg-type]

    def _ask(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return self.consumer.committed(partitions, timeout)

    def _submit(self, call: Callable[[], list[TopicPartition]]) -> Future[list[TopicPartition]]:
        if not self.later:
            return at_once(call)
        assert not self._waiting, "one call at a time"
        self._waiting.append((call, Future()))
        return self._waiting[0][1]

    def answer(self) -> None:
        call, future = self._waiting.pop()
        try:
            future.set_result(call())
        except KafkaException as error:
            future.set_exception(error)

    def turn_after(self, seconds: float) -> list[int]:
        self.clock.advance(seconds)
        return [p.number for p in self.positions.turn()]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_message_at_the_committed_offset_is_entered_and_all_behind_it(bench):
    bench.consumer.group = {0: 7}
    bench.positions.assigned([P])
    bench.positions.turn()
    assert all(bench.positions.admits(P, offset) for offset in (7, 8, 20, 3))
    assert bench.consumer.sought == []


def test_a_group_that_has_committed_nothing_begins_wherever_its_policy_says(bench):
    bench.positions.assigned([P])
    bench.positions.turn()
    assert bench.positions.admits(P, 0)
    bench.positions.assigned([P])
    bench.positions.turn()
    assert bench.positions.admits(P, 5000)
    assert bench.consumer.sought == []


@pytest.mark.parametrize("first", [0, 6, 8, 900])
def test_a_client_that_begins_elsewhere_is_sent_back_once(bench, first):
    bench.consumer.group = {0: 7}
    bench.positions.assigned([P])
    bench.positions.turn()
    assert not bench.positions.admits(P, first)
    assert bench.consumer.sought == [(0, 7)]
    # There may be nothing at 7 any more (compaction, a transaction's marker): what comes now is right.
    comes = first if first > 7 else 9
    assert bench.positions.admits(P, comes)
    assert bench.positions.admits(P, comes + 1)


def test_no_message_is_entered_before_the_offset_is_known(bench):
    bench.consumer.group = {0: UNKNOWN, 1: UNKNOWN}
    bench.positions.assigned([P, Q])
    assert bench.turn_after(0) == []
    assert not bench.positions.admits(P, 0)
    assert not bench.positions.admits(P, 1)
    assert bench.consumer.paused == {0}, "of the other nothing came"
    assert (bench.positions.holds(P), bench.positions.holds(Q), bench.positions.held) == (True, False, 1)
    assert bench.turn_after(5) == []
    bench.consumer.group = {0: 7, 1: 3}
    assert bench.turn_after(5) == [0]
    assert bench.consumer.sought == [(0, 7), (1, 3)]
    assert bench.positions.held == 0
    assert bench.positions.admits(P, 7)
    assert bench.positions.admits(Q, 3)


def test_what_was_refused_comes_again_if_nothing_is_committed(bench):
    bench.later = True
    bench.positions.assigned([P])
    bench.positions.turn()
    assert not bench.positions.admits(P, 4)
    assert not bench.positions.admits(P, 5)
    bench.answer()
    assert bench.turn_after(0) == [0]
    assert bench.consumer.sought == [(0, 4)]
    assert bench.positions.admits(P, 4)


def test_an_answer_is_heard_when_the_first_message_comes(bench):
    bench.later = True
    bench.consumer.group = {0: 7}
    bench.positions.assigned([P])
    bench.positions.turn()
    bench.answer()
    assert bench.positions.admits(P, 7)
    assert bench.consumer.paused == set()


def test_an_answer_for_an_assignment_that_is_over_is_not_taken_for_the_next(bench):
    """Between the two another member may have committed more."""
    bench.later = True
    bench.consumer.group = {0: 7}
    bench.positions.assigned([P])
    bench.positions.turn()
    bench.positions.forget([P])
    bench.positions.assigned([P])
    bench.answer()  # 7
    bench.consumer.group = {0: 9}
    bench.positions.turn()
    assert not bench.positions.admits(P, 9), "not known yet"
    bench.answer()
    bench.positions.turn()
    assert bench.consumer.sought == [(0, 9)]
    assert bench.positions.admits(P, 9)


def test_one_partition_that_nobody_knows_of_keeps_no_other(bench):
    bench.consumer.group = {0: UNKNOWN, 1: 3}
    bench.positions.assigned([P, Q])
    for _ in range(4):
        bench.turn_after(1)
    assert bench.positions.admits(Q, 3)
    assert not bench.positions.admits(P, 0)


def test_a_partition_that_is_refused_by_name_is_asked_for_again(bench, monkeypatch):
    found = [TopicPartition("sequences", 0, -1001), TopicPartition("sequences", 1, 3)]
    bench.consumer.group = {0: 7}

    class Refused(TopicPartition):
        error = KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT)

    monkeypatch.setattr(bench.consumer, "committed", lambda _, timeout: [Refused("sequences", 0), found[1]])
    bench.positions.assigned([P, Q])
    bench.turn_after(0)
    assert bench.positions.admits(Q, 3)
    assert not bench.positions.admits(P, 0)
    monkeypatch.undo()
    assert bench.turn_after(1) == [0]
    assert bench.consumer.sought == [(0, 7)]


def test_a_client_that_cannot_seek_yet_is_asked_again(bench, monkeypatch):
    def refuse(_: TopicPartition) -> None:
        raise KafkaException(KafkaError(KafkaError._STATE))

    bench.consumer.group = {0: UNKNOWN}
    bench.positions.assigned([P])
    bench.turn_after(0)
    assert not bench.positions.admits(P, 0)
    bench.consumer.group = {0: 7}
    with monkeypatch.context() as patch:
        patch.setattr(bench.consumer, "seek", refuse)
        assert bench.turn_after(2) == []
        assert bench.positions.holds(P)
    assert bench.turn_after(0) == [0]
    assert bench.consumer.sought == [(0, 7)]


def test_after_the_assignment_nothing_is_asked_or_held(bench):
    bench.consumer.group = {0: UNKNOWN}
    bench.positions.assigned([P])
    bench.turn_after(0)
    assert not bench.positions.admits(P, 0)
    bench.positions.forget([P])
    bench.consumer.group = {0: 7}
    assert bench.turn_after(10) == []
    assert (bench.positions.holds(P), bench.consumer.sought) == (False, [])


def test_a_late_answer_sends_the_client_to_it_though_no_message_has_come(bench):
    """It may stand at the end, by auto.offset.reset=latest, and what lies before would wait for the next message."""
    bench.consumer.group = {0: UNKNOWN}
    bench.positions.assigned([P])
    bench.consumer.group = {0: 7}
    assert bench.turn_after(2) == [], "it was not paused"
    assert bench.consumer.sought == [(0, 7)]
    assert bench.positions.admits(P, 7)


def test_a_late_answer_of_nothing_sends_the_client_nowhere(bench):
    bench.consumer.group = {0: UNKNOWN}
    bench.positions.assigned([P])
    bench.consumer.group = {}
    assert bench.turn_after(2) == []
    assert bench.consumer.sought == []
    assert bench.positions.admits(P, 0)


def test_a_committed_offset_that_is_gone_loses_nothing_with_latest(bench):
    """Messages up to 4999 were deleted; sent to 7 the client goes to the end, which has moved on."""
    bench.consumer.group = {0: 7}
    bench.positions.assigned([P])
    assert not bench.positions.admits(P, 5000)
    assert not bench.positions.admits(P, 5001), "it has passed one over"
    assert bench.consumer.sought == [(0, 7), (0, 5000)]
    assert bench.positions.admits(P, 5000)


def test_a_message_before_the_committed_offset_is_believed_when_it_comes_again_and_again(bench):
    """The log was cut, and ends before it."""
    bench.consumer.group = {0: 7}
    bench.positions.assigned([P])
    assert [bench.positions.admits(P, 0) for _ in range(4)] == [False, False, False, True]
    assert bench.consumer.sought == [(0, 7)] * 3


def test_a_client_that_cannot_seek_when_a_message_comes_holds_the_partition(bench, monkeypatch):
    def refuse(_: TopicPartition) -> None:
        raise KafkaException(KafkaError(KafkaError._STATE))

    bench.consumer.group = {0: 7}
    bench.positions.assigned([P])
    with monkeypatch.context() as patch:
        patch.setattr(bench.consumer, "seek", refuse)
        assert not bench.positions.admits(P, 0)
    assert bench.consumer.paused == {0}
    assert bench.turn_after(0) == [0]
    assert bench.consumer.sought == [(0, 7)]
    assert bench.positions.admits(P, 7)


def test_a_new_assignment_is_asked_for_before_those_that_nobody_knows_of(bench):
    bench.consumer.group = {0: UNKNOWN, 1: 3}
    bench.positions.assigned([P])
    bench.positions.assigned([Q])
    assert bench.positions.admits(Q, 3)
