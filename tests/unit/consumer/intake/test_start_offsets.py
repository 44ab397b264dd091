"""Where the reading of a partition begins: at the committed offset, whatever the client makes of a missing answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from consumer.intake import start_offsets
from consumer.intake.gaps import Gaps, Skip
from consumer.intake.start_offsets import StartOffsets
from consumer.kafka import cluster
from tests.simulation.memory_clients import Fault, Link, MemoryAdmin, MemoryConsumer
from tests.simulation.memory_kafka import MemoryKafka
from tests.support.factories import TOPIC, FakeClock, at_once, partition

P, Q = partition(0), partition(1)


class Bench:
    """`StartOffsets` over a consumer in memory that owns both partitions.

    `later` keeps answers back until `answer`.
    """

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kafka = MemoryKafka(self.clock, {TOPIC: 2}, 1e6, 1e6, 1e6)
        self.link = Link(self.clock)
        self.consumer = MemoryConsumer(self.kafka, self.link, lambda *_: None)
        self.consumer.subscribe([TOPIC], on_assign=lambda consumer, added: consumer.incremental_assign(added))
        for _ in range(2):  # joins, and finds where to begin
            self.consumer.poll(0)
        self.ask = self.consumer.committed
        self.later = False
        self._epoch = self.kafka.new_epoch("previous owner")
        self._waiting: list[tuple[Callable[[], list[TopicPartition]], Future[list[TopicPartition]]]] = []
        self.skips: list[Skip] = []
        log_starts = partial(cluster.log_starts, MemoryAdmin(self.kafka))
        self.gaps = Gaps(log_starts, self.skips.append, "continue", clock=self.clock)
        self.start_offsets = StartOffsets(self.consumer, self._ask, self._submit, self.gaps, self.clock)  # type: ignore[arg-type]

    def commit(self, offsets: dict[int, int]) -> None:
        """What the group has committed, and nothing withholds it any more."""
        self.kafka.end_transaction("previous owner", self._epoch, "aborted")
        self.kafka.group.committed = {partition(number): offset for number, offset in offsets.items()}

    def withhold(self, *numbers: int) -> None:
        """A transaction of the previous owner is open on the offsets of these partitions."""
        transaction = self.kafka.transaction("previous owner", self._epoch)
        transaction.offsets.update({partition(number): 1_000_000 for number in numbers})

    def refuse_seek(self) -> None:
        """The next call of `seek` fails."""

        def refuse() -> None:
            raise KafkaException(KafkaError(KafkaError._STATE))

        self.link.faults.append(Fault("seek", refuse))

    @property
    def sought(self) -> list[tuple[int, int]]:
        return self.consumer.seeks

    @property
    def paused(self) -> set[int]:
        return {partition.number for partition in self.consumer.paused}

    def _ask(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return self.ask(partitions, timeout)

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
        return [p.number for p in self.start_offsets.turn()]


@pytest.fixture
def bench(monkeypatch) -> Bench:
    monkeypatch.setattr(start_offsets, "_AT_ONCE_S", 0.01)
    return Bench()


def test_the_message_at_the_committed_offset_is_entered_and_all_behind_it(bench):
    bench.commit({0: 7})
    bench.start_offsets.assign([P])
    bench.start_offsets.turn()
    assert all(bench.start_offsets.accepts(P, offset) for offset in (7, 8, 20, 3))
    assert bench.sought == []


def test_a_group_that_has_committed_nothing_begins_wherever_its_policy_says(bench):
    bench.start_offsets.assign([P])
    bench.start_offsets.turn()
    assert bench.start_offsets.accepts(P, 0)
    bench.start_offsets.assign([P])
    bench.start_offsets.turn()
    assert bench.start_offsets.accepts(P, 5000)
    assert bench.sought == []


@pytest.mark.parametrize("first", [0, 6, 8, 900])
def test_a_client_that_begins_elsewhere_is_sent_back_once(bench, first):
    bench.commit({0: 7})
    bench.start_offsets.assign([P])
    bench.start_offsets.turn()
    assert not bench.start_offsets.accepts(P, first)
    assert bench.sought == [(0, 7)]
    # There may be nothing at 7 any more (compaction, a transaction's marker): what comes now is right.
    comes = first if first > 7 else 9
    assert bench.start_offsets.accepts(P, comes)
    assert bench.start_offsets.accepts(P, comes + 1)


def test_no_message_is_entered_before_the_offset_is_known(bench):
    bench.withhold(0, 1)
    bench.start_offsets.assign([P, Q])
    assert bench.turn_after(0) == []
    assert not bench.start_offsets.accepts(P, 0)
    assert not bench.start_offsets.accepts(P, 1)
    assert bench.paused == {0}, "of the other nothing came"
    assert (
        bench.start_offsets.is_waiting(P),
        bench.start_offsets.is_waiting(Q),
        bench.start_offsets.waiting,
    ) == (True, False, 1)
    assert bench.turn_after(5) == []
    bench.commit({0: 7, 1: 3})
    assert bench.turn_after(5) == [0]
    assert bench.sought == [(0, 7), (1, 3)]
    assert bench.start_offsets.waiting == 0
    assert bench.start_offsets.accepts(P, 7)
    assert bench.start_offsets.accepts(Q, 3)


def test_what_was_refused_comes_again_if_nothing_is_committed(bench):
    bench.later = True
    bench.start_offsets.assign([P])
    bench.start_offsets.turn()
    assert not bench.start_offsets.accepts(P, 4)
    assert not bench.start_offsets.accepts(P, 5)
    bench.answer()
    assert bench.turn_after(0) == [0]
    assert bench.sought == [(0, 4)]
    assert bench.start_offsets.accepts(P, 4)


def test_an_assignment_waits_a_moment_for_the_answer_so_that_nothing_is_paused(bench, monkeypatch):
    monkeypatch.setattr(start_offsets, "_AT_ONCE_S", 10.0)
    bench.later = True
    bench.commit({0: 7})
    timer = threading.Timer(0.05, bench.answer)
    timer.start()
    bench.start_offsets.assign([P])
    timer.join()
    assert bench.start_offsets.accepts(P, 7)
    assert bench.paused == set()
    assert bench.sought == []


def test_an_answer_is_heard_when_the_first_message_comes(bench):
    bench.later = True
    bench.commit({0: 7})
    bench.start_offsets.assign([P])
    bench.start_offsets.turn()
    bench.answer()
    assert bench.start_offsets.accepts(P, 7)
    assert bench.paused == set()


def test_an_answer_for_an_assignment_that_is_over_is_not_taken_for_the_next(bench):
    """Between the two another member may have committed more."""
    bench.later = True
    bench.commit({0: 7})
    bench.start_offsets.assign([P])
    bench.start_offsets.turn()
    bench.start_offsets.forget([P])
    bench.start_offsets.assign([P])
    bench.answer()  # 7
    bench.commit({0: 9})
    bench.start_offsets.turn()
    assert not bench.start_offsets.accepts(P, 9), "not known yet"
    bench.answer()
    bench.start_offsets.turn()
    assert bench.sought == [(0, 9)]
    assert bench.start_offsets.accepts(P, 9)


def test_one_partition_that_has_no_known_offset_keeps_no_other(bench):
    bench.commit({1: 3})
    bench.withhold(0)
    bench.start_offsets.assign([P, Q])
    for _ in range(4):
        bench.turn_after(1)
    assert bench.start_offsets.accepts(Q, 3)
    assert not bench.start_offsets.accepts(P, 0)


def test_a_partition_that_is_refused_by_name_is_asked_for_again(bench):
    found = [TopicPartition("sequences", 0, -1001), TopicPartition("sequences", 1, 3)]
    bench.commit({0: 7})

    class Refused(TopicPartition):
        error = KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT)

    bench.ask = lambda _, timeout: [Refused("sequences", 0), found[1]]
    bench.start_offsets.assign([P, Q])
    bench.turn_after(0)
    assert bench.start_offsets.accepts(Q, 3)
    assert not bench.start_offsets.accepts(P, 0)
    bench.ask = bench.consumer.committed
    assert bench.turn_after(1) == [0]
    assert bench.sought == [(0, 7)]


def test_a_client_that_cannot_seek_yet_is_asked_again(bench):
    bench.withhold(0)
    bench.start_offsets.assign([P])
    bench.turn_after(0)
    assert not bench.start_offsets.accepts(P, 0)
    bench.commit({0: 7})
    bench.refuse_seek()
    assert bench.turn_after(2) == []
    assert bench.start_offsets.is_waiting(P)
    assert bench.turn_after(0) == [0]
    assert bench.sought == [(0, 7)]


def test_after_the_assignment_nothing_is_asked_or_held(bench):
    bench.withhold(0)
    bench.start_offsets.assign([P])
    bench.turn_after(0)
    assert not bench.start_offsets.accepts(P, 0)
    bench.start_offsets.forget([P])
    bench.commit({0: 7})
    assert bench.turn_after(10) == []
    assert (bench.start_offsets.is_waiting(P), bench.sought) == (False, [])


def test_a_late_answer_sends_the_client_to_it_though_no_message_has_come(bench):
    """It may stand at the end, by auto.offset.reset=latest, and what lies before would wait for the next message."""
    bench.withhold(0)
    bench.start_offsets.assign([P])
    bench.commit({0: 7})
    assert bench.turn_after(2) == [], "it was not paused"
    assert bench.sought == [(0, 7)]
    assert bench.start_offsets.accepts(P, 7)


def test_a_late_answer_of_nothing_sends_the_client_nowhere(bench):
    bench.withhold(0)
    bench.start_offsets.assign([P])
    bench.commit({})
    assert bench.turn_after(2) == []
    assert bench.sought == []
    assert bench.start_offsets.accepts(P, 0)


def test_a_committed_offset_that_is_gone_loses_nothing_with_latest(bench):
    """Messages up to 4999 were deleted; sent to 7 the client goes to the end, which has moved on."""
    bench.commit({0: 7})
    bench.start_offsets.assign([P])
    assert not bench.start_offsets.accepts(P, 5000)
    assert not bench.start_offsets.accepts(P, 5001), "it has passed one over"
    assert bench.sought == [(0, 7), (0, 5000)]
    assert bench.start_offsets.accepts(P, 5000)


def test_a_message_before_the_committed_offset_is_believed_when_it_comes_again_and_again(bench):
    """The log was cut, and ends before it."""
    bench.commit({0: 7})
    bench.start_offsets.assign([P])
    assert [bench.start_offsets.accepts(P, 0) for _ in range(4)] == [False, False, False, True]
    assert bench.sought == [(0, 7)] * 3


def test_a_client_that_cannot_seek_when_a_message_comes_holds_the_partition(bench):
    bench.commit({0: 7})
    bench.start_offsets.assign([P])
    bench.refuse_seek()
    assert not bench.start_offsets.accepts(P, 0)
    assert bench.paused == {0}
    assert bench.turn_after(0) == [0]
    assert bench.sought == [(0, 7)]
    assert bench.start_offsets.accepts(P, 7)


def test_a_new_assignment_is_asked_for_before_those_that_has_no_known_offset(bench):
    bench.commit({1: 3})
    bench.withhold(0)
    bench.start_offsets.assign([P])
    bench.start_offsets.assign([Q])
    assert bench.start_offsets.accepts(Q, 3)
