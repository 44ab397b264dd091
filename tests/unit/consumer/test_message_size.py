"""What a message is said to hold, against what it does hold in memory."""

from __future__ import annotations

import tracemalloc

import pytest

from consumer.ledger import Ledger
from consumer.types import RawMessage, Source
from tests.support.factories import partition

COUNT = 100


def fresh(size: int) -> bytes:
    return bytes(bytearray(size))


@pytest.mark.parametrize(
    ("value", "key", "headers", "header_size"),
    [
        (0, 0, 0, 0),
        (300, 10, 3, 20),
        (20_000, 10, 0, 0),
        (100, 10, 2000, 0),
        (100, 10, 500, 3000),
        (0, 5000, 1, 0),
    ],
)
def test_the_bytes_in_flight_are_close_to_the_memory_that_they_take(value, key, headers, header_size):
    ledger = Ledger()
    ledger.assign([partition(0)])
    tracemalloc.start()
    for offset in range(COUNT):
        names = tuple((f"name {offset} {n}", fresh(header_size)) for n in range(headers))
        ledger.receive(
            RawMessage(Source(partition(0), 1, offset), fresh(key), fresh(value), names, 10**12, 0.5)
        )
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / 2 < ledger.bytes, "more memory is used than the budget knows"
    assert ledger.bytes < 3 * taken, "the budget is used up by what is not there"
