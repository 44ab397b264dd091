"""The training corpus: labelled genomes in one npz file, and the balanced sampling of records from it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from virnucpro_core.evaluation.labels import LABELS

VIRUS = LABELS.index("virus")
TRAIN, DEV, VALIDATION = "train", "dev", "validation"
SPLITS = (TRAIN, DEV, VALIDATION)
EXTRA = "extra"
"""The split of further sources, which are trained on if the recipe gives them a weight."""
DOMAINS = ("prokaryotes", "eukaryotes")
_SAME_GROUP = 200  # chunks without an open frame before another group is tried
_HOPELESS = 20_000  # the same, before the sampler gives up


@dataclass(frozen=True, slots=True)
class Corpus:
    """Genomes with their labels.

    codes: uint8 [bases], the upper-case letters of all records one after the other (ASCII);
    starts: int64 [records + 1], where each record begins in `codes`;
    ids, groups, splits: str [records]; labels: uint8 [records], 0 others and 1 virus;
    genera, species: str [records], in lower case, "" where unknown;
    novelty: str [records], how far a validation record is from the training split, in the manifest's words;
    domains: str [records], see DOMAINS: of the organism, or of a virus's hosts.
    """

    codes: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]
    labels: npt.NDArray[np.uint8]
    genera: npt.NDArray[np.str_]
    species: npt.NDArray[np.str_]
    novelty: npt.NDArray[np.str_]
    domains: npt.NDArray[np.str_]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Bases of each record, int64 [records]."""
        return np.diff(self.starts)

    def sequence(self, record: int, start: int = 0, end: int | None = None) -> str:
        """Letters start..end (0-based, end exclusive) of one record."""
        first, last = int(self.starts[record]), int(self.starts[record + 1])
        stop = last if end is None else min(first + end, last)
        return self.codes[first + start : stop].tobytes().decode("ascii")

    def records_of(self, *splits: str) -> npt.NDArray[np.int64]:
        """Indices of the records of one or more splits."""
        for split in splits:
            if split not in (*SPLITS, EXTRA):
                raise ValueError(f"unknown split {split!r}; one of {', '.join((*SPLITS, EXTRA))}")
        return np.flatnonzero(np.isin(self.splits, splits))

    def unseen(self, split: str, *trained_on: str) -> npt.NDArray[np.bool_]:
        """bool [records]: records of `split` of whose genus no record is in the splits `trained_on`.

        What may be of such a genus counts as seen: a record whose genus is not known is unseen only if its
        species is known, and no record of its group (a virus's family) was trained on.
        """
        trained = self.records_of(*trained_on)
        named = self.genera != ""
        seen = named & np.isin(self.genera, self.genera[trained])
        seen |= np.isin(self.species, self.species[trained]) & (self.species != "")
        seen |= ~named & ((self.species == "") | np.isin(self.groups, self.groups[trained]))
        found: npt.NDArray[np.bool_] = (self.splits == split) & ~seen
        return found

    def save(self, path: Path) -> None:
        """Write everything as one compressed npz file, all of it or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.npz")
        np.savez_compressed(unfinished, **{name: getattr(self, name) for name in self.__slots__})
        unfinished.rename(path)

    @staticmethod
    def load(path: Path) -> Corpus:
        """Read what `save` wrote; raises FileNotFoundError or KeyError (a missing array)."""
        with np.load(path, allow_pickle=False) as file:
            return Corpus(**{name: file[name] for name in Corpus.__slots__})


def ids_digest(ids: Sequence[str]) -> str:
    """sha256 of the sorted record ids, one a line: names the data that a model was trained on."""
    return hashlib.sha256("".join(f"{record_id}\n" for record_id in sorted(ids)).encode()).hexdigest()


class BalancedSampler:
    """Draws records so that viruses and hosts of either domain have equal shares, and each group of such a kind
    a share that grows with (bases of the group) ** exponent; within a group a record's share grows with its
    length.

    Without the equal shares phages would be rare beside bacteria and the viruses of eukaryotes common beside
    their hosts, and the model would learn the prior of each domain, not what a virus is.

    Args:
        records: int64 [records], those that are drawn from.
        exponent: 1 is sampling by size, 0 is equal groups; 0.5 keeps a huge group from dominating.
        extra_weight: how much a base of the split `extra` counts against one of another split, above 0.

    Raises:
        ValueError: there are no records.
    """

    def __init__(
        self,
        corpus: Corpus,
        records: npt.NDArray[np.int64],
        exponent: float = 0.5,
        extra_weight: float = 1.0,
    ) -> None:
        if len(records) == 0:
            raise ValueError("no records to sample from")
        self.records = records
        labels, domains, groups = corpus.labels[records], corpus.domains[records], corpus.groups[records]
        lengths = corpus.lengths[records] * np.where(corpus.splits[records] == EXTRA, extra_weight, 1.0)
        kinds = [(int(label), str(domain)) for label, domain in zip(labels, domains, strict=True)]
        members: dict[tuple[tuple[int, str], str], list[int]] = {}
        for place, key in enumerate(zip(kinds, groups.tolist(), strict=True)):
            members.setdefault(key, []).append(place)
        self._members = {key: np.array(places) for key, places in members.items()}
        self._key = dict(zip(records.tolist(), zip(kinds, groups.tolist(), strict=True), strict=True))
        sizes = {key: float(lengths[places].sum()) for key, places in self._members.items()}
        totals: dict[tuple[int, str], float] = {}
        for (kind, _), size in sizes.items():
            totals[kind] = totals.get(kind, 0.0) + size**exponent
        labels_of = [label for label, _ in totals]
        self.probabilities = np.zeros(len(records), dtype=np.float64)
        for key, places in self._members.items():
            kind, size = key[0], sizes[key]
            share = size**exponent / totals[kind] / labels_of.count(kind[0]) / len(set(labels_of))
            self.probabilities[places] = share * lengths[places] / size
        self._cumulative = np.cumsum(self.probabilities)
        self._cumulative[-1] = 1.0

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        """`count` record indices with replacement, int64 [count]."""
        places = np.searchsorted(self._cumulative, rng.random(count), side="right")
        return self.records[np.minimum(places, len(self.records) - 1)]

    def again(self, record: int, failures: int, rng: np.random.Generator) -> int:
        """The record to draw from when `failures` chunks in a row, the last one of `record`, were of no use.

        It is of the same kind and group, or groups with few open frames would fall behind; any record after
        some hundred failures, because a group may have none.

        Raises:
            ValueError: after many thousand failures.
        """
        if failures >= _HOPELESS:
            raise ValueError(
                f"{failures} chunks in a row have no open frame that fits a row of the table: are the records "
                "nucleotides, and is tokenizer.json made by training.data.train_tokenizer?"
            )
        if failures % _SAME_GROUP == 0:
            return int(self.draw(rng, 1)[0])
        places = self._members[self._key[record]]
        upper = np.cumsum(self.probabilities[places])
        place = np.searchsorted(upper, rng.random() * upper[-1], side="right")
        return int(self.records[places[min(int(place), len(places) - 1)]])


def hold_out(keys: Sequence[str], sizes: Sequence[int], share: float, rng: np.random.Generator) -> set[str]:
    """Keys (families, genera) that together hold about `share` of the bases.

    A key with more than a fifth of the share's bases is never taken (a few keys would be the whole slice),
    nor is the empty key.
    """
    totals: dict[str, int] = {}
    for key, size in zip(keys, sizes, strict=True):
        totals[key] = totals.get(key, 0) + size
    wanted = share * sum(totals.values())
    candidates = sorted(key for key, size in totals.items() if key and size <= wanted / 5)
    taken: set[str] = set()
    held = 0
    for place in rng.permutation(len(candidates)):
        if held >= wanted:
            break
        taken.add(candidates[place])
        held += totals[candidates[place]]
    return taken
