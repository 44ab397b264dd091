"""What a run has published, in which topic it lies, and what was deleted of it: what the checker goes by."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

from tests.chaos.checker import Deleted, Expected, Skip
from tests.chaos.worker_log import Events

_CLOCKS_S = 0.5  # a worker's log and this process read one clock, and a line takes a moment


class Journal:
    """Written by the publisher's thread (`add`) and the main one (all else); read by the reader's.

    Args:
        partitions: of each topic at the beginning.
    """

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.expected: list[Expected] = []
        """By record number."""
        self.cut: dict[tuple[int, int], int] = {}
        """By incarnation and partition: the first offset that was not deleted, where some were."""
        self._created = [0.0]
        self._next: Counter[tuple[int, int]] = Counter()

    @property
    def incarnation(self) -> int:
        """How often the input topic has been recreated."""
        return len(self._created) - 1

    def recreated(self) -> None:
        """The input topic is about to be deleted and created again; what is added from now on is in the new one."""
        self._created.append(time.time())

    def add(self, record: Expected) -> int:
        """Enter a record that is about to be published as the next of its partition; its number.

        All records come from one idempotent producer, so offsets of a partition follow each other.
        """
        key = (self.incarnation, record.partition)
        self.expected.append(replace(record, incarnation=key[0], offset=self._next[key]))
        self._next[key] += 1
        return len(self.expected) - 1

    def deleted(self, events: Events) -> Deleted:
        """What was deleted, with what the workers' logs say of it."""
        skips = [
            Skip(self._incarnation_at(skip.at), skip.partition, skip.first, skip.last)
            for skip in events.skips
        ]
        reported = {self._incarnation_at(at) - 1 for at in events.recreated}
        return Deleted(dict(self.cut), skips, len(self._created), frozenset(reported))

    def _incarnation_at(self, at: float) -> int:
        """The topic that was there, or was about to be created, at a time (seconds since 1970)."""
        return sum(created <= at + _CLOCKS_S for created in self._created) - 1
