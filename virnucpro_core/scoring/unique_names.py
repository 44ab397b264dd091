"""Names for records, some of which have one id: those are told apart where a reader goes by the id alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator


def unique_names(ids: Iterable[str]) -> Iterator[str]:
    """A name for each record, in order, no two the same.

    An id that comes once is the name. The records of one that comes more often are named `id_1`, `id_2` and so on,
    without the names that another id has.
    """
    ids = list(ids)
    counts = Counter(ids)
    numbers: dict[str, int] = {}
    for record_id in ids:
        if counts[record_id] == 1:
            yield record_id
            continue
        number = numbers.get(record_id, 0) + 1
        while f"{record_id}_{number}" in counts:
            number += 1
        numbers[record_id] = number
        yield f"{record_id}_{number}"
