"""A record of which some frames are computed, and one frame of it in a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord


@dataclass(slots=True, eq=False)
class PendingRecord:
    """A prepared record on its way through the model; it fills as the batches of its frames finish.

    Attributes:
        prepared: the record.
        rows: float32 [columns] for each frame that is computed, None for the others.
        missing: frames that are not computed.
        failure: why the record was given up, None if it was not; its other frames are not computed then.
    """

    prepared: PreparedRecord
    rows: list[NDArray[np.float32] | None] = field(init=False)
    missing: int = field(init=False)
    failure: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.missing = len(self.prepared.frames)
        self.rows = [None] * self.missing

    @property
    def is_done(self) -> bool:
        """True if nothing is left to compute: all frames are, or the record was given up."""
        return not self.missing or self.failure is not None

    def keep(self, index: int, row: NDArray[np.float32]) -> None:
        """Take the row [columns] of one frame, which must not have one."""
        self.rows[index] = row
        self.missing -= 1

    def computed(self) -> list[NDArray[np.float32]]:
        """The row of each frame; ValueError while one is missing."""
        rows = [row for row in self.rows if row is not None]
        if len(rows) < len(self.rows):
            raise ValueError(f"{self.missing} frames of record {self.prepared.record_id} are not computed")
        return rows

    def scores(self) -> NDArray[np.float32]:
        """The rows of a scorer as one array, float32 [frames, 2]; ValueError while one is missing."""
        return np.array(self.computed(), dtype=np.float32).reshape(-1, 2)


Record = TypeVar("Record", bound=PendingRecord)


@dataclass(frozen=True, slots=True)
class Slot(Generic[Record]):
    """One frame in a batch: its record, and which of the record's frames it is."""

    record: Record
    index: int

    @property
    def frame(self) -> PreparedFrame:
        return self.record.prepared.frames[self.index]


def slots_of(record: Record) -> list[Slot[Record]]:
    """All frames of a record, in order."""
    return [Slot(record, index) for index in range(len(record.prepared.frames))]


def by_record(slots: Iterable[Slot[Record]]) -> Iterator[list[Slot[Record]]]:
    """The slots of each record; those of one record must stand together."""
    for _, group in groupby(slots, key=lambda slot: id(slot.record)):
        yield list(group)
