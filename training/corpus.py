"""The training corpus: labelled genomes in one npz file, and the balanced sampling of records from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

OTHERS, VIRUS = 0, 1
LABELS = ("others", "virus")
TRAIN, DEV, VALIDATION = "train", "dev", "validation"
SPLITS = (TRAIN, DEV, VALIDATION)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Genomes with their labels.

    codes: uint8 [bases], the upper-case letters of all records one after the other (ASCII);
    starts: int64 [records + 1], where each record begins in `codes`;
    ids, groups, splits: str [records]; labels: uint8 [records], 0 others and 1 virus.
    """

    codes: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]
    labels: npt.NDArray[np.uint8]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Bases of each record, int64 [records]."""
        return np.diff(self.starts)

    def sequence(self, record: int, start: int = 0, end: int | None = None) -> str:
        """Letters start..end (0-based, end exclusive) of one record."""
        first, last = int(self.starts[record]), int(self.starts[record + 1])
        stop = last if end is None else min(first + end, last)
        return self.codes[first + start : stop].tobytes().decode("ascii")

    def records_of(self, split: str) -> npt.NDArray[np.int64]:
        """Indices of the records of one split."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; one of {', '.join(SPLITS)}")
        return np.flatnonzero(self.splits == split)

    def save(self, path: Path) -> None:
        """Write everything as one compressed npz file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            codes=self.codes,
            starts=self.starts,
            ids=self.ids,
            groups=self.groups,
            splits=self.splits,
            labels=self.labels,
        )

    @staticmethod
    def load(path: Path) -> Corpus:
        """Read what `save` wrote; raises FileNotFoundError or KeyError (a missing array)."""
        with np.load(path, allow_pickle=False) as file:
            return Corpus(**{name: file[name] for name in Corpus.__slots__})


def ids_digest(ids: Sequence[str]) -> str:
    """sha256 of the sorted record ids, one a line: names the data that a model was trained on."""
    return hashlib.sha256("".join(f"{record_id}\n" for record_id in sorted(ids)).encode()).hexdigest()


class BalancedSampler:
    """Draws records so that each label has one half of the draws, and each group of a label a share that
    grows with (bases of the group) ** exponent; within a group a record's share grows with its length.

    exponent 1 is sampling by size, 0 is equal groups; 0.5 keeps a huge group from dominating.
    """

    def __init__(
        self,
        records: npt.NDArray[np.int64],
        labels: npt.NDArray[np.uint8],
        groups: npt.NDArray[np.str_],
        lengths: npt.NDArray[np.int64],
        exponent: float = 0.5,
    ) -> None:
        if len(records) == 0:
            raise ValueError("no records to sample from")
        self.records = records
        weights = np.zeros(len(records), dtype=np.float64)
        present = np.unique(labels[records])
        for label in present:
            of_label = labels[records] == label
            names = groups[records]
            present_names = np.unique(names[of_label])
            sizes = {str(n): lengths[records[of_label & (names == n)]].sum() for n in present_names}
            total = sum(float(size) ** exponent for size in sizes.values())
            for name, size in sizes.items():
                members = of_label & (names == name)
                share = float(size) ** exponent / total / len(present)
                weights[members] = share * lengths[records[members]] / size
        self.probabilities = weights / weights.sum()
        self._cumulative = np.cumsum(self.probabilities)
        self._cumulative[-1] = 1.0

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        """`count` record indices with replacement, int64 [count]."""
        places = np.searchsorted(self._cumulative, rng.random(count), side="right")
        return self.records[np.minimum(places, len(self.records) - 1)]


def hold_out(keys: Sequence[str], sizes: Sequence[int], share: float, rng: np.random.Generator) -> set[str]:
    """Keys (families, genera) that together hold about `share` of the bases.

    A key with more than a third of the share's bases is never taken (it would be the whole slice), nor is
    the empty key.
    """
    totals: dict[str, int] = {}
    for key, size in zip(keys, sizes, strict=True):
        totals[key] = totals.get(key, 0) + size
    wanted = share * sum(totals.values())
    candidates = sorted(key for key, size in totals.items() if key and size <= wanted / 3)
    taken: set[str] = set()
    held = 0
    for place in rng.permutation(len(candidates)):
        if held >= wanted:
            break
        taken.add(candidates[place])
        held += totals[candidates[place]]
    return taken
