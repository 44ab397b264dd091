"""A commit gives back exactly what was done, whatever the order of done and open messages."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.kafka.offset_map import METADATA_BYTES, OffsetMap, TooManyGaps


@given(st.integers(0, 10**12), st.lists(st.booleans(), max_size=300), st.integers(0, 300))
def test_done_messages_survive_a_commit_and_open_ones_are_read_again(start, done, stop):
    first = OffsetMap(start)
    for index, each in enumerate(done):
        first.passed(start + index, each)
    offset, metadata = first.commit()
    again = OffsetMap.parse(offset, metadata)
    assert [again.is_done(start + index) for index in range(len(done))] == done
    assert again.position == start + (done.index(False) if False in done else len(done))
    # A second run that ends in the middle forgets nothing of what lies behind.
    for index in range(offset - start, min(stop, len(done))):
        again.passed(start + index, again.is_done(start + index))
    third = OffsetMap.parse(*again.commit())
    assert [third.is_done(start + index) for index in range(len(done))] == done


def test_offsets_without_a_message_hold_nothing_back():
    progress = OffsetMap(0)
    for offset in (0, 1, 5, 9):
        progress.passed(offset, done=True)
    assert progress.commit() == (10, "")


def test_a_long_run_behind_an_open_message_takes_few_bytes():
    progress = OffsetMap(0)
    progress.passed(0, done=False)
    for offset in range(1, 200_000):
        progress.passed(offset, done=True)
    offset, metadata = progress.commit()
    assert (offset, len(metadata) < 200) == (0, True)
    assert OffsetMap.parse(offset, metadata).is_done(199_999)


def test_what_does_not_fit_is_refused():
    progress, chance = OffsetMap(0), random.Random(1)
    for offset in range(30 * METADATA_BYTES):
        progress.passed(offset, done=chance.random() < 0.5)
    with pytest.raises(TooManyGaps):
        progress.commit()


@pytest.mark.parametrize("metadata", [None, "", "something else"])
def test_commits_of_other_programs_hold_no_map(metadata):
    assert OffsetMap.parse(7, metadata).commit() == (7, "")


@pytest.mark.parametrize("metadata", ["vnp1:???", "vnp1:AAAA"])
def test_a_damaged_map_is_refused(metadata):
    with pytest.raises(ValueError, match="offset 7 is damaged"):
        OffsetMap.parse(7, metadata)
