"""Records prepared in their order: one by one, or by several threads while batches of earlier ones are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from virnucpro_core.scoring.outcomes import LeftOut, Record
from virnucpro_core.sequence.prepare import PreparedRecord

THREADS = 4
"""Tokenising is two thirds of the preparation and leaves the interpreter to the others."""
_GROUP_RECORDS = 64
_GROUP_BASES = 1 << 18
"""Records of a group, and bases in it before the last record, that one thread prepares at a time."""

Prepared = tuple[Record, PreparedRecord | LeftOut]
PrepareRecord = Callable[[Record], PreparedRecord | LeftOut]


def prepared_in_turn(records: Iterable[Record], prepare: PrepareRecord) -> Iterator[Prepared]:
    """Each record when it has been read, and before the next one is."""
    for record in records:
        yield record, prepare(record)


def prepared_ahead(records: Iterable[Record], prepare: PrepareRecord) -> Iterator[Prepared]:
    """Records in their order, by `THREADS` threads; `records` is read here, and read ahead by a bounded number."""
    waiting: deque[Future[list[Prepared]]] = deque()
    threads = ThreadPoolExecutor(THREADS, "prepare")
    try:
        for group in _groups(records):
            waiting.append(threads.submit(_prepare_all, group, prepare))
            if len(waiting) > THREADS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _prepare_all(group: list[Record], prepare: PrepareRecord) -> list[Prepared]:
    return [(record, prepare(record)) for record in group]


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    bases = 0
    for record in records:
        group.append(record)
        bases += len(record[2])
        if len(group) == _GROUP_RECORDS or bases >= _GROUP_BASES:
            yield group
            group, bases = [], 0
    if group:
        yield group
