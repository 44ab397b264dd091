"""The batching policy, with a clock that stands still unless a test moves it."""

from __future__ import annotations

import threading

import pytest

from consumer.scoring.batcher import Batcher, RecordJob
from tests.support.factories import FakeClock, partition, prepared_frame, prepared_record, source
from virnucpro_core.sequence.prepare import PreparedRecord


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def preparing() -> list[bool]:
    return [True]


@pytest.fixture
def batcher(clock, preparing) -> Batcher:
    return Batcher(
        100, max_wait=0.05, backlog=1000, preparing=lambda: preparing[0], linger=0.003, clock=clock
    )


def job(offset: int, *tokens: int, prepared_at: float = 100.0, number: int = 0) -> RecordJob:
    return RecordJob(prepared_record(*tokens), source(offset, number), prepared_at)


def taken(batch) -> list[tuple[int, int]]:
    return [(slot.record.source.offset, slot.index) for slot in batch.slots]


def test_a_batch_is_full_when_the_next_frame_does_not_fit(batcher):
    batcher.put(job(1, 40, 40, 40))
    batch = batcher.next_batch(0)
    assert (taken(batch), batch.tokens, batch.closed_by) == ([(1, 0), (1, 1)], 80, "full")


def test_a_batch_may_fill_the_budget_to_the_last_token(batcher):
    batcher.put(job(1, 60, 40, 1))
    assert batcher.next_batch(0).tokens == 100


def test_the_nucleotides_keep_to_the_budget_too(batcher):
    frames = tuple(prepared_frame(10, dna_tokens=60, chunk=index) for index in range(2))
    prepared = PreparedRecord("r", 1000, ((0, 500), (500, 1000)), frames)
    batcher.put(RecordJob(prepared, source(1), 100.0))
    assert len(batcher.next_batch(0).slots) == 1


def test_nothing_is_due_while_records_are_being_prepared(batcher):
    batcher.put(job(1, 10))
    assert batcher.next_batch(0) is None


def test_the_deadline_counts_from_the_end_of_the_preparation(batcher, clock):
    batcher.put(job(1, 10, prepared_at=99.96))
    assert batcher.next_batch(0) is None
    clock.advance(0.011)
    assert batcher.next_batch(0).closed_by == "deadline"


def test_an_idle_device_takes_what_is_there_after_the_linger(batcher, clock, preparing):
    preparing[0] = False
    batcher.put(job(1, 10))
    assert batcher.next_batch(0) is None
    clock.advance(0.004)
    assert batcher.next_batch(0).closed_by == "idle"


def test_draining_waits_for_nothing(batcher):
    batcher.put(job(1, 10))
    batcher.drain()
    assert batcher.next_batch(0).closed_by == "drain"


def test_frames_leave_in_the_order_of_arrival_across_records(batcher):
    batcher.put(job(1, 50, 30))
    batcher.put(job(2, 20, 90))
    batcher.drain()
    assert taken(batcher.next_batch(0)) == [(1, 0), (1, 1), (2, 0)]
    assert taken(batcher.next_batch(0)) == [(2, 1)]


def test_a_partition_has_room_until_it_holds_its_share_of_the_backlog(batcher):
    """Of 1000 tokens: one partition gets half, and room is left for another one."""
    assert batcher.has_room(partition(0))
    batcher.put(job(1, *[90] * 100))
    assert batcher.queued_tokens == 9000, "one record however large"
    assert not batcher.has_room(partition(0))
    assert batcher.has_room(partition(1))
    batcher.put(job(7, *[90] * 4, number=1))
    assert batcher.has_room(partition(2))
    assert not batcher.has_room(partition(1))
    assert batcher.tokens_by_partition() == {partition(0): 9000, partition(1): 360}


def test_partitions_take_turns_frame_by_frame(batcher):
    """A genome in one partition; the frames of a record stand together in a batch."""
    batcher.put(job(1, *[20] * 50))
    batcher.put(job(7, 20, 20, number=1))
    batcher.put(job(9, 20, number=2))
    assert taken(batcher.next_batch(0)) == [(1, 0), (1, 1), (7, 0), (7, 1), (9, 0)]
    batcher.put(job(8, *[20] * 9, number=1))
    assert taken(batcher.next_batch(0)) == [(1, 2), (1, 3), (1, 4), (8, 0), (8, 1)]


def test_with_more_partitions_than_a_batch_has_frames_each_comes_in_its_turn(batcher):
    for number in range(5):
        batcher.put(job(number, *[40] * 3, number=number))
    batcher.drain()
    batches = [taken(batcher.next_batch(0)) for _ in range(8)]
    assert [[offset for offset, _ in batch] for batch in batches[:5]] == [
        [0, 1],
        [2, 3],
        [4, 0],
        [1, 2],
        [3, 4],
    ]
    every = [place for batch in batches for place in batch]
    assert sorted(every) == [(offset, index) for offset in range(5) for index in range(3)]


def test_a_frame_over_the_budget_is_a_bug_not_a_batch(batcher):
    with pytest.raises(ValueError, match="over the token budget of 100"):
        batcher.put(job(1, 101))


def test_discard_keeps_what_is_wanted_and_what_was_begun(batcher):
    batcher.put(job(1, 60, 60))
    batcher.put(job(2, 10))
    batcher.put(job(3, 10))
    batcher.next_batch(0)
    batcher.discard(lambda source: source.offset in (1, 2))
    batcher.drain()
    assert taken(batcher.next_batch(0)) == [(1, 1), (3, 0)]
    assert batcher.queued_tokens == 0


def test_discard_drops_a_record_that_was_not_begun_with_all_its_frames(batcher):
    batcher.put(job(1, 10, 10, 10))
    batcher.discard(lambda source: True)
    assert batcher.queued_tokens == 0
    batcher.drain()
    assert batcher.next_batch(0) is None


def test_a_closed_batcher_gives_nothing_and_takes_nothing(batcher):
    batcher.put(job(1, 10))
    batcher.close()
    batcher.put(job(2, 10))
    assert batcher.next_batch(5) is None
    assert batcher.queued_tokens == 0


@pytest.fixture
def busy_batcher(clock) -> Batcher:
    """Of a device that computes."""
    return Batcher(100, 0.05, 1000, preparing=lambda: False, device_idle=lambda: False, clock=clock)


def test_a_batch_that_is_not_full_waits_for_the_device(busy_batcher, clock):
    busy_batcher.put(job(1, 60))
    clock.advance(10)
    assert busy_batcher.next_batch(0) is None
    busy_batcher.drain()
    assert busy_batcher.next_batch(0) is None


def test_a_full_batch_is_there_before_the_device_is_idle(busy_batcher):
    busy_batcher.put(job(1, 60, 60))
    assert busy_batcher.next_batch(0).closed_by == "full"
    assert busy_batcher.next_batch(0) is None


def test_who_waits_gets_a_batch_when_the_device_turns_idle():
    idle = [False]
    batcher = Batcher(100, 0.0, 1000, preparing=lambda: False, device_idle=lambda: idle[0])
    batcher.put(job(1, 60))
    found = []
    waiting = threading.Thread(target=lambda: found.append(batcher.next_batch(10)))
    waiting.start()
    idle[0] = True
    batcher.notify()
    waiting.join(10)
    assert taken(found[0]) == [(1, 0)]
