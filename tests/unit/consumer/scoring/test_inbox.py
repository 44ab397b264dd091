"""Messages that wait for preparation: bounded, partitions in turns, large ones apart, none without room behind it."""

from __future__ import annotations

import queue
import threading

import pytest

from consumer.scoring.inbox import LARGE_BYTES, Inbox, Waiting
from tests.support.factories import message, partition


@pytest.fixture
def full() -> set:
    """Partitions that have no room behind the inbox."""
    return set()


@pytest.fixture
def inbox(full) -> Inbox:
    return Inbox(10, lambda asked: asked not in full)


def put(inbox: Inbox, number: int, *offsets: int, size: int = 10) -> None:
    for offset in offsets:
        inbox.put(Waiting(message(offset, number, value=b"v" * size)))


def taken(inbox: Inbox, count: int, large: bool = False) -> list[tuple[int, int]]:
    waiting = [inbox.take(large, 0) for _ in range(count)]
    return [(one.message.source.partition.number, one.message.source.offset) for one in waiting if one]


def test_partitions_take_turns_and_each_keeps_its_order(inbox):
    put(inbox, 0, 1, 2, 3)
    put(inbox, 1, 7)
    put(inbox, 2, 4, 5)
    assert taken(inbox, 7) == [(0, 1), (1, 7), (2, 4), (0, 2), (2, 5), (0, 3)]


def test_one_without_room_is_passed_over_until_it_has_some(inbox, full):
    put(inbox, 0, 1, 2)
    put(inbox, 1, 7)
    full.add(partition(0))
    assert taken(inbox, 2) == [(1, 7)]
    full.clear()
    assert taken(inbox, 3) == [(0, 1), (0, 2)]


def test_a_thread_that_waits_is_told_of_room(inbox, full):
    full.add(partition(0))
    put(inbox, 0, 1)
    found: list[tuple[int, int]] = []
    waiting = threading.Thread(target=lambda: found.append(inbox.take(False, 10)))
    waiting.start()
    full.clear()
    inbox.notify()
    waiting.join(10)
    assert found[0].message.source.offset == 1


def test_large_messages_are_for_those_who_ask_for_them(inbox):
    put(inbox, 0, 1, size=LARGE_BYTES + 1)
    put(inbox, 0, 2)
    put(inbox, 1, 7, size=LARGE_BYTES)
    assert taken(inbox, 2) == [(1, 7)], "what stands behind a large one waits for it to be taken"
    assert taken(inbox, 1, large=True) == [(0, 1)]
    assert taken(inbox, 1, large=True) == []
    assert taken(inbox, 1) == [(0, 2)]


def test_it_is_bounded_and_says_what_it_holds(inbox):
    put(inbox, 0, *range(6))
    put(inbox, 1, *range(4), size=5)
    with pytest.raises(queue.Full):
        put(inbox, 2, 1)
    assert inbox.bytes_by_partition == {partition(0): 60, partition(1): 20}
    taken(inbox, 8)
    assert inbox.bytes_by_partition == {partition(0): 20}
    put(inbox, 2, 1)


def test_discard_drops_what_is_not_wanted_and_counts_it(inbox):
    put(inbox, 0, 1, 2)
    put(inbox, 1, 7)
    assert inbox.discard(lambda source: source.offset != 2) == 2
    assert inbox.bytes_by_partition == {partition(0): 10}
    assert taken(inbox, 2) == [(0, 2)]
    put(inbox, 1, *range(10))


def test_a_closed_inbox_gives_nothing(inbox):
    put(inbox, 0, 1)
    inbox.close()
    assert inbox.take(False, 5) is None


def test_the_thread_that_a_message_is_for_is_woken_also_by_one_that_stood_before_it(inbox):
    """A thread that is not woken waits for a minute here."""
    got: dict[bool, list[int]] = {False: [], True: []}

    def take(large: bool, count: int) -> None:
        while len(got[large]) < count and (one := inbox.take(large, 60.0)) is not None:
            got[large].append(one.message.source.offset)

    threads = [threading.Thread(target=take, args=each, daemon=True) for each in ((False, 4), (True, 2))]
    for thread in threads:
        thread.start()
    for offset, large in enumerate((False, True, False, True, False, False)):
        put(inbox, 0, offset, size=LARGE_BYTES + 1 if large else 10)
    for thread in threads:
        thread.join(10)
    assert got == {False: [0, 2, 4, 5], True: [1, 3]}
