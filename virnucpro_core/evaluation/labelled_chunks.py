"""What a calibration is fitted on: the margins of the chunks of labelled records."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from virnucpro_core.evaluation.labels import Label
from virnucpro_core.evaluation.metrics import BoolArray, FloatArray, IntArray
from virnucpro_core.scoring.margins import margin_of
from virnucpro_core.scoring.results import RecordResult


@dataclass(frozen=True, slots=True, eq=False)
class LabelledChunks:
    """The scored chunks of labelled records; chunks and records without an open frame are left out.

    Attributes:
        margins: float [chunks], by `virnucpro_core.scoring.margins`.
        owner: int [chunks], the record of each, ascending, from 0 without gaps.
        number: int [chunks], which chunk of its record, from 0, ascending in a record; those left out are counted.
        is_virus: bool [records].
        unit: int [records], from 0 without gaps, which record or group each is; those of one unit are alike, and so are
            never on two sides of a split.
        expected_length: bases in a chunk.
    """

    margins: FloatArray
    owner: IntArray
    number: IntArray
    is_virus: BoolArray
    unit: IntArray
    expected_length: int


class ChunkCollector:
    """Takes the results of labelled records one at a time; a record with a group is in the unit of its group."""

    def __init__(self) -> None:
        self._margins, self._owner, self._number = array("d"), array("q"), array("q")
        self._is_virus, self._unit = array("b"), array("q")
        self._units: dict[tuple[str, str], int] = {}

    @property
    def records(self) -> int:
        """Records with an open frame so far."""
        return len(self._is_virus)

    def add(self, result: RecordResult, label: Label) -> None:
        """One more record, and what it is known to be."""
        scored = [(number, chunk) for number, chunk in enumerate(result.chunks) if chunk.frames]
        if not scored:
            return
        self._owner.extend([self.records] * len(scored))
        self._number.extend(number for number, _ in scored)
        self._margins.extend(margin_of(chunk.frames) for _, chunk in scored)
        self._is_virus.append(label.is_virus)
        name = (label.group, "") if label.group else ("", result.record_id)
        self._unit.append(self._units.setdefault(name, len(self._units)))

    def chunks(self, expected_length: int) -> LabelledChunks:
        """What was collected; expected_length: bases in a chunk."""
        return LabelledChunks(
            np.array(self._margins, dtype=np.float64),
            np.array(self._owner, dtype=np.int64),
            np.array(self._number, dtype=np.int64),
            np.array(self._is_virus, dtype=bool),
            np.array(self._unit, dtype=np.int64),
            expected_length,
        )
