"""The ledger of offsets: what may be delivered and committed, epoch by epoch."""

from __future__ import annotations

import pytest

from consumer.ledger import Ledger
from tests.support.factories import finished, message, partition, source


def position(offset: int):
    return lambda _: offset


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    ledger.assign([partition(0), partition(1)])
    return ledger


def offsets_of(release) -> list[int]:
    return [entry.message.source.offset for entry in release.entries]


def test_only_the_finished_prefix_is_released_in_offset_order(ledger):
    for offset in (40, 41, 42, 43, 44):
        ledger.receive(message(offset))
    for offset in (43, 41, 40):
        ledger.finish(finished(offset))
    release = ledger.release(position(45), 10)
    assert offsets_of(release) == [40, 41]
    assert release.offsets == {partition(0): 42}


def test_nothing_is_released_behind_an_unfinished_message(ledger):
    ledger.receive(message(1))
    ledger.receive(message(2))
    ledger.finish(finished(2))
    assert ledger.release(position(3), 10).entries == ()
    assert ledger.release(position(3), 10).offsets == {}


def test_the_position_is_committed_when_nothing_is_in_flight(ledger):
    ledger.receive(message(7))
    ledger.finish(finished(7))
    assert ledger.release(position(9), 10).offsets == {partition(0): 9}, "it steps over a transaction marker"
    assert ledger.release(position(-1001), 10).offsets == {partition(0): 8}, "no position known"


def test_gaps_between_offsets_are_no_holes(ledger):
    for offset in (3, 8, 20):
        ledger.receive(message(offset))
    ledger.finish(finished(3))
    ledger.finish(finished(8))
    assert ledger.release(position(21), 10).offsets == {partition(0): 20}


def test_the_limit_cuts_the_prefix_and_its_offset(ledger):
    for offset in range(5):
        ledger.receive(message(offset))
        ledger.finish(finished(offset))
    release = ledger.release(position(5), 3)
    assert offsets_of(release) == [0, 1, 2]
    assert release.offsets == {partition(0): 3}


def test_settled_messages_are_forgotten_and_counted_off(ledger):
    for offset in range(3):
        ledger.receive(message(offset, value=b"12345", key=None))
        ledger.finish(finished(offset))
    size = message(0, value=b"12345", key=None).size
    assert (ledger.records, ledger.bytes) == (3, 3 * size)
    ledger.settle(ledger.release(position(3), 2))
    assert (ledger.records, ledger.bytes) == (1, size)
    assert offsets_of(ledger.release(position(3), 10)) == [2]


def test_a_result_of_an_old_epoch_is_stale(ledger):
    ledger.receive(message(5))
    ledger.drop([partition(0)])
    ledger.assign([partition(0)])
    ledger.receive(message(5, epoch=2))
    assert ledger.finish(finished(5, epoch=1)) is None
    assert ledger.release(position(6), 10).entries == ()
    assert ledger.finish(finished(5, epoch=2)) is not None


def test_settling_a_release_of_an_old_epoch_leaves_the_new_one_alone(ledger):
    ledger.receive(message(5))
    ledger.finish(finished(5))
    release = ledger.release(position(6), 10)
    ledger.assign([partition(0)])
    ledger.receive(message(5, epoch=2))
    ledger.settle(release)
    assert ledger.records == 1


def test_a_message_is_finished_once(ledger):
    ledger.receive(message(5))
    assert ledger.finish(finished(5)) is not None
    assert ledger.finish(finished(5)) is None
    assert ledger.finish(finished(6)) is None, "never received"


def test_dropping_a_partition_gives_its_budget_back(ledger):
    ledger.receive(message(1, number=0))
    ledger.receive(message(1, number=1))
    ledger.drop([partition(0)])
    assert ledger.records == 1
    assert ledger.epoch(partition(0)) is None


def test_a_revoking_partition_is_not_wanted_but_still_released(ledger):
    for number in (0, 1):
        ledger.receive(message(1, number=number))
        ledger.receive(message(2, number=number))
    ledger.finish(finished(1))
    ledger.revoking([partition(0)])
    assert not ledger.is_wanted(source(2))
    assert ledger.is_wanted(source(2, number=1))
    assert offsets_of(ledger.release(position(2), 10)) == [1]


def test_messages_out_of_turn_are_refused(ledger):
    ledger.receive(message(5))
    with pytest.raises(ValueError, match="comes after offset 5"):
        ledger.receive(message(5))
    with pytest.raises(ValueError, match="not of a partition assigned"):
        ledger.receive(message(6, epoch=9))
    assert ledger.went_back(partition(0), 5)
    assert not ledger.went_back(partition(0), 6)


def test_a_log_that_is_cut_keeps_what_was_read_before_the_cut(ledger):
    for offset in (4, 5, 6, 7):
        ledger.receive(message(offset))
    ledger.finish(finished(4))
    held = ledger.release(position(8), 10)
    ledger.cut(partition(0), 6)
    assert (ledger.records, ledger.epoch(partition(0))) == (2, 2)
    ledger.receive(message(6, epoch=2))
    assert ledger.finish(finished(6)) is None, "it was another message"
    assert ledger.finish(finished(5)) is not None, "it is still the one that was read"
    ledger.settle(held)
    assert offsets_of(ledger.release(position(7), 10)) == [5]
    ledger.finish(finished(6, epoch=2))
    release = ledger.release(position(7), 10)
    assert (offsets_of(release), release.offsets) == ([5, 6], {partition(0): 7})


def test_a_topic_that_was_made_anew_begins_at_its_beginning(ledger):
    ledger.receive(message(900))
    ledger.cut(partition(0), 0)
    ledger.receive(message(0, epoch=2))
    assert not ledger.is_wanted(source(900))
    assert ledger.is_wanted(source(0, epoch=2))


def test_the_oldest_message_is_that_of_any_partition(ledger):
    assert ledger.oldest_received_at() is None
    ledger.receive(message(1, number=0, received_at=20.0))
    ledger.receive(message(1, number=1, received_at=10.0))
    assert ledger.oldest_received_at() == 10.0


def test_a_busy_partition_does_not_keep_the_others_waiting(ledger):
    for number in (0, 1):
        for offset in range(10):
            ledger.receive(message(offset, number=number))
            ledger.finish(finished(offset, number=number))
    served = []
    for _ in range(4):
        release = ledger.release(position(10), 2)
        served.append({entry.message.source.partition.number for entry in release.entries})
        ledger.settle(release)
    assert served.count({0}) == served.count({1}) == 2


def test_what_is_finished_and_what_waits_to_be_confirmed_alone(ledger):
    assert not ledger.is_finished
    ledger.receive(message(1, received_at=5.0))
    ledger.receive(message(1, number=1, received_at=6.0))
    ledger.confirm(4.0)
    assert not ledger.is_finished
    assert not ledger.is_unconfirmed
    ledger.finish(finished(1, number=1))
    assert not ledger.is_finished
    assert ledger.is_unconfirmed
    ledger.finish(finished(1))
    assert ledger.is_finished
    ledger.confirm(5.0)
    assert ledger.is_unconfirmed, "the other partition's"
    ledger.settle(ledger.release(position(2), 10))
    assert ledger.is_finished, "one is delivered, and the other is finished"
    ledger.confirm(6.0)
    assert not ledger.is_unconfirmed
    ledger.drop([partition(1)])
    assert not ledger.is_finished
    ledger.receive(message(2))
    assert not ledger.is_finished, "what was dropped finished does not count for what comes"
