"""Records are prepared ahead in their order, by a bounded number, and what fails comes out where it belongs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.support.small_tokenizer import small_tokenizer
from virnucpro_core.scoring.outcomes import Record
from virnucpro_core.scoring.preparing import THREADS, prepared_ahead, prepared_in_turn
from virnucpro_core.sequence.prepare import PreparedRecord, prepare


def prepare_record(record: Record) -> PreparedRecord:
    return prepare(record[0], record[2], 60, small_tokenizer())


def source(count: int, long: int = -1) -> list[Record]:
    return [(f"r{n}", None, "GCA" * (100_000 if n == long else n % 50)) for n in range(count)]


def test_the_order_is_that_of_the_file():
    records = source(500, long=70)
    expected = [
        (record[0], prepared.tokens) for record, prepared in prepared_in_turn(records, prepare_record)
    ]
    assert [(r[0], prepared.tokens) for r, prepared in prepared_ahead(records, prepare_record)] == expected


def test_several_threads_prepare_at_the_same_time():
    together = threading.Barrier(THREADS)

    def meet(record: Record) -> PreparedRecord:
        if int(record[0][1:]) % 64 == 0:  # the first of its group
            together.wait(30)
        return prepare_record(record)

    assert len(list(prepared_ahead(source(64 * THREADS), meet))) == 64 * THREADS


def test_no_more_is_read_than_the_threads_prepare():
    read = 0

    def counted() -> Iterator[Record]:
        nonlocal read
        for record in source(10_000):
            read += 1
            yield record

    ahead = prepared_ahead(counted(), prepare_record)
    next(ahead)
    assert read <= 64 * (THREADS + 1)
    ahead.close()
    assert not any(thread.name.startswith("prepare") for thread in threading.enumerate())


def test_what_the_preparation_raises_comes_after_the_records_before():
    def fail(record: Record) -> PreparedRecord:
        if record[0] == "r200":
            raise ValueError("no")
        return prepare_record(record)

    seen = []
    with pytest.raises(ValueError, match="no"):
        seen.extend(record[0] for record, _ in prepared_ahead(source(500), fail))
    assert seen == [f"r{n}" for n in range(192)], "the groups before its own"
