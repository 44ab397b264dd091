"""Splits labelled records into a training and a held-out part.

Whole records are held out, never a part of one, and whole groups where records have a group: pieces of one genome,
and members of one family, are alike: a head trained on some of them would be measured on what it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.evaluation.labels import LABELS, Label, LabelFileError
from virnucpro_core.heads.feature_file import FeatureFile

MIN_UNITS = 4
"""Records, or groups, that each label needs."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Labelled records and their frames in a feature file; records without an open frame are in no part.

    Attributes:
        rows: int64 [frames], their row numbers in the file, ascending.
        frame_chunk, frame_record: int64 [frames], ascending, from 0 without gaps.
        chunk_record: int64 [chunks].
        chunk_number: int64 [chunks], which chunk of its record, from 0; those without an open frame are counted.
        is_virus: bool [records].
        unit: int64 [records], which record or group it is; records of one unit are never in two parts.
        record_ids: [records].
    """

    rows: NDArray[np.int64]
    frame_chunk: NDArray[np.int64]
    frame_record: NDArray[np.int64]
    chunk_record: NDArray[np.int64]
    chunk_number: NDArray[np.int64]
    is_virus: NDArray[np.bool_]
    unit: NDArray[np.int64]
    record_ids: tuple[str, ...]

    @property
    def frame_is_virus(self) -> NDArray[np.bool_]:
        """The label of each frame's record, bool [frames]."""
        return self.is_virus[self.frame_record]

    def counts(self) -> dict[str, int]:
        """Numbers of records, chunks and frames, for a report."""
        return {
            "records": len(self.is_virus),
            "viruses": int(self.is_virus.sum()),
            "units": len(np.unique(self.unit)),
            "chunks": len(self.chunk_record),
            "frames": len(self.rows),
        }


class LabelledRecords:
    """The records of a feature file that have a label and at least one frame.

    Attributes:
        by: what is held out as a whole, "group" if any of them has one, else "record". Where some have none, each of
            those stands for itself. Records of one id count as one.
        without_label: records with frames that have no label.
        without_open_frame: labelled records of the file that have no frame.
        not_in_file: labels of no record of the file.
    """

    def __init__(self, file: FeatureFile, labels: Mapping[str, Label]) -> None:
        """Raises LabelFileError if no record is left, or none of one label."""
        self._file = file
        framed = np.zeros(len(file.record_ids), dtype=bool)
        framed[file.chunk_record] = True
        known = np.array([record_id in labels for record_id in file.record_ids], dtype=bool)
        self._records = np.flatnonzero(framed & known)
        found = [labels[file.record_ids[record]] for record in self._records]
        self._is_virus = np.array([label.is_virus for label in found], dtype=bool)
        self.by: Literal["group", "record"] = "group" if any(label.group for label in found) else "record"
        names = [
            (label.group, "") if label.group else ("", file.record_ids[record])
            for label, record in zip(found, self._records, strict=True)
        ]
        # Numbered by name, so that the split does not depend on the order of the file.
        number = {name: index for index, name in enumerate(sorted(set(names)))}
        self._unit = np.array([number[name] for name in names], dtype=np.int64)
        self.without_label = int((framed & ~known).sum())
        self.without_open_frame = int((known & ~framed).sum())
        self.not_in_file = len(labels.keys() - set(file.record_ids))
        if len(np.unique(self._is_virus)) < len(LABELS):
            raise LabelFileError(
                f"of the {len(file.record_ids):,} records of {file.path} {int(self._is_virus.sum()):,} are labelled "
                f"virus and {int((~self._is_virus).sum()):,} others, with an open frame: both are needed; the ids of "
                "the table must be those of the sequences"
            )

    def whole(self) -> Part:
        """All labelled records as one part."""
        return self._part(np.ones(len(self._records), dtype=bool))

    def split(self, share: float, seed: int) -> tuple[Part, Part]:
        """The training part and the held-out part.

        Args:
            share: of the records of each label that are held out, 0 to 1, in whole units, about; of each label at least
                one unit, and not all.
            seed: of the choice. The file's order and features do not matter.

        Raises:
            LabelFileError: a label has fewer than `MIN_UNITS` units, or its units are so uneven that less than half or
                more than twice the share (a quarter, where that is more) would be held out.
        """
        rng = np.random.default_rng(seed)
        units = np.arange(self._unit.max() + 1)
        viruses = np.bincount(self._unit, self._is_virus) > 0
        others = np.bincount(self._unit, ~self._is_virus) > 0
        for label, has in zip(LABELS, (others, viruses), strict=True):
            if has.sum() < MIN_UNITS:
                raise LabelFileError(
                    f"{label}: {has.sum()} {self.by}{'s' if has.sum() > 1 else ''} with an open frame, and at least "
                    f"{MIN_UNITS} are needed to hold some out: label more records"
                    + (", or take finer groups" if self.by == "group" else "")
                )
        of_unit = np.stack(
            [np.bincount(self._unit, self._is_virus == label) for label in (False, True)]
        ).astype(float)
        strata = [rng.permutation(units[s]) for s in (viruses & ~others, others & ~viruses, viruses & others)]
        # Units of both labels first: those of one label then fill what is missing.
        held_out = _choose(of_unit, np.concatenate([strata[2], *strata[:2]]), share)
        self._check_shares(of_unit, held_out, share)
        chosen = held_out[self._unit]
        return self._part(~chosen), self._part(chosen)

    def _check_shares(self, of_unit: NDArray[np.float64], held_out: NDArray[np.bool_], share: float) -> None:
        low, high = _bounds(share)
        for label, counts in zip(LABELS, of_unit, strict=True):
            held, total = counts[held_out].sum(), counts.sum()
            if not low <= held / total <= high:
                raise LabelFileError(
                    f"{label}: {held:.0f} of {total:.0f} records ({held / total:.0%}) would be held out where "
                    f"{share:.0%} is asked for: its {int((counts > 0).sum())} {self.by}s are uneven, the largest has "
                    f"{counts.max():.0f} records; take finer groups, or another --validation-share"
                )

    def summary(self) -> dict[str, Any]:
        """How records were grouped, and how many were left out and why, for a report."""
        return {
            "by": self.by,
            "records_without_label": self.without_label,
            "labelled_without_open_frame": self.without_open_frame,
            "labels_of_no_record": self.not_in_file,
        }

    def _part(self, chosen: NDArray[np.bool_]) -> Part:
        """chosen bool [labelled records]."""
        file, records = self._file, self._records[chosen]
        taken = np.zeros(len(file.record_ids), dtype=bool)
        taken[records] = True
        rows = np.flatnonzero(taken[file.frame_record])
        chunks, frame_chunk = np.unique(file.frame_chunk[rows], return_inverse=True)
        chunk_record = np.searchsorted(records, file.chunk_record[chunks])
        return Part(
            rows=rows,
            frame_chunk=frame_chunk,
            frame_record=chunk_record[frame_chunk],
            chunk_record=chunk_record,
            # A chunk begins up to one length before its number times the length: VirNucPro's chunks overlap.
            chunk_number=-(-file.chunk_start[chunks] // file.info.expected_length),
            is_virus=self._is_virus[chosen],
            unit=self._unit[chosen],
            record_ids=tuple(file.record_ids[record] for record in records),
        )


def _bounds(share: float) -> tuple[float, float]:
    """Least and most of a label's records that may be held out."""
    return share / 2, min(max(2 * share, 1 / MIN_UNITS), (1 + share) / 2)


def _choose(of_unit: NDArray[np.float64], order: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Which units are held out, bool [units].

    Args:
        of_unit: float64 [labels, units], the records of each label in each unit.
        order: of the choice. A unit with which any label would exceed its share is passed over; where too little of a
            label is held out then, the smallest unit that keeps all labels within their bounds is added.
    """
    low, high = _bounds(share)
    total = of_unit.sum(axis=1)
    target = np.clip(np.round(share * total), 1, np.floor(high * total))
    held = np.zeros(len(total))
    chosen = np.zeros(of_unit.shape[1], dtype=bool)

    def add(unit: int) -> None:
        chosen[unit] = True
        held[:] += of_unit[:, unit]

    for unit in order:
        if (held + of_unit[:, unit] <= target).all():
            add(unit)
    for label in range(len(total)):
        left = [unit for unit in order if of_unit[label, unit] and not chosen[unit]]
        for unit in sorted(left, key=lambda unit: of_unit[label, unit]):
            if held[label] < low * total[label] and (held + of_unit[:, unit] <= high * total).all():
                add(unit)
    return chosen
