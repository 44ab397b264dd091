"""Folds for cross-validation: whole viral families and whole genera, so that no fold has a relative in another.

    python -m training.data.folds --manifest manifest.tsv --extra-manifest extra_manifest.tsv --out training/folds.tsv

draws them from the records that may be trained on, and writes a table with a row for each family of viruses, each
genus of viruses without a family, and each genus of the rest. The same manifests give the same bytes. Families that
a genus or a species has in common go together. A record of which neither family nor genus is known is in no fold: it
is neither trained on nor judged in cross-validation.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data.corpus import DEV, EXTRA, TRAIN, VIRUS, Corpus
from training.data.prepare_data import NOT_A_FAMILY, name_of, read_extra, read_manifest
from virnucpro_core.atomic_files import atomic_write
from virnucpro_core.evaluation.labels import LABELS

FOLDS = 5
DEFAULT = Path(__file__).parents[1] / "folds.tsv"
NO_FOLD = 0
COLUMNS = ("label", "rank", "name", "realm", "fold")
FAMILY, GENUS = "family", "genus"
COUNTED_BASES = 6000
"""Of a record, for the balance: the 12 chunks of it that are judged at most."""
EXTRA_PER_GENUS = 2
"""Records of an extra source that are judged at most, or its many genera would outweigh the genomes."""

Key = tuple[str, str, str]
"""Label, rank and name of what goes to a fold as a whole."""


def key_of(label: str, group: str, genus: str) -> Key | None:
    """The row of the table that a record belongs to, None if neither its family nor its genus is known."""
    if label == LABELS[VIRUS] and group not in NOT_A_FAMILY:
        return (label, FAMILY, group)
    return (label, GENUS, genus) if genus else None


@dataclass(frozen=True, slots=True)
class Folds:
    """The table: the fold, from 1 on, and the realm, "" if unknown or of no virus, of each key."""

    fold: Mapping[Key, int]
    realm: Mapping[Key, str]

    @property
    def count(self) -> int:
        """How many folds there are."""
        return max(self.fold.values())

    @staticmethod
    def read(path: Path) -> Folds:
        """Read a table.

        Raises:
            ValueError: it is not one that `write` wrote, or something is in it twice.
            OSError: it cannot be read.
        """
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise ValueError(f"{path} does not have the columns {', '.join(COLUMNS)}")
            fold: dict[Key, int] = {}
            realm: dict[Key, str] = {}
            for row in rows:
                key = (row["label"], row["rank"], row["name"])
                if key in fold:
                    raise ValueError(f"{path}: {' '.join(key)} is there a second time")
                if not (row["fold"] or "").isdecimal() or int(row["fold"]) == NO_FOLD:
                    raise ValueError(f"{path}: the fold of {' '.join(key)} is {row['fold']!r}, not 1 or more")
                fold[key], realm[key] = int(row["fold"]), row["realm"]
        if not fold:
            raise ValueError(f"{path} has no row under its header")
        return Folds(fold, realm)

    def write(self, path: Path) -> None:
        """Write the table, all of it or nothing."""
        with atomic_write(path) as (unfinished,), unfinished.open("w", encoding="utf-8") as file:
            file.write("\t".join(COLUMNS) + "\n")
            for key in sorted(self.fold):
                file.write("\t".join((*key, self.realm[key], str(self.fold[key]))) + "\n")

    def of(self, corpus: Corpus) -> npt.NDArray[np.int64]:
        """The fold of each record, NO_FOLD for records of the validation split and those that are not known.

        Raises:
            ValueError: the table does not have a family or genus that it should.
        """
        found = np.full(len(corpus.ids), NO_FOLD, dtype=np.int64)
        for record, key in self._keys(corpus):
            if key not in self.fold:
                raise ValueError(
                    f"the folds do not have the {key[1]} {key[2]}: draw them from these manifests with "
                    "python -m training.data.folds"
                )
            found[record] = self.fold[key]
        return found

    def realms(self, corpus: Corpus) -> npt.NDArray[np.str_]:
        """The realm of each record, "" for those without a fold or a known realm."""
        found = [""] * len(corpus.ids)
        for record, key in self._keys(corpus):
            found[record] = self.realm[key]
        return np.array(found)

    def judged(self, corpus: Corpus, fold: int) -> npt.NDArray[np.int64]:
        """Indices of the records that judge a model that was trained without `fold`: its genomes, and of each genus
        of an extra source the first EXTRA_PER_GENUS records."""
        taken: Counter[str] = Counter()
        chosen = []
        for record in np.flatnonzero(self.of(corpus) == fold).tolist():
            if corpus.splits[record] == EXTRA:
                genus = str(corpus.genera[record])
                taken[genus] += 1
                if taken[genus] > EXTRA_PER_GENUS:
                    continue
            chosen.append(record)
        return np.array(chosen, dtype=np.int64)

    @staticmethod
    def _keys(corpus: Corpus) -> Iterable[tuple[int, Key]]:
        for record in corpus.records_of(TRAIN, DEV, EXTRA).tolist():
            label = LABELS[corpus.labels[record]]
            key = key_of(label, str(corpus.groups[record]), str(corpus.genera[record]))
            if key is not None:
                yield record, key


class _Joined:
    """Names that are joined into sets (union-find)."""

    def __init__(self) -> None:
        self._above: dict[Key, Key] = {}

    def top(self, name: Key) -> Key:
        above = self._above.setdefault(name, name)
        if above != name:
            above = self._above[name] = self.top(above)
        return above

    def join(self, names: list[Key]) -> None:
        first, *others = (self.top(name) for name in names)
        for other in others:
            low, high = sorted((first, self.top(other)))
            self._above[high] = low
            first = low


def draw(rows: Iterable[dict[str, str]], folds: int = FOLDS, seed: int = 1) -> Folds:
    """Folds of the rows of a manifest's training split.

    Balanced are the bases that judge, of viruses by realm and of the rest by group: the largest set of relatives goes
    first, each to the fold that has least of its kind, then to that which has least of its label.

    Raises:
        ValueError: a label has fewer sets of relatives than there are folds, or there are fewer than two folds.
    """
    if folds < 2:
        raise ValueError(f"cross-validation needs at least 2 folds, not {folds}")
    joined = _Joined()
    keys: dict[Key, list[dict[str, str]]] = {}
    for row in rows:
        label, genus = row["label"], name_of(row, "genus")
        key = key_of(label, row["group"], genus)
        if key is None:
            continue
        keys.setdefault(key, []).append(row)
        known = {FAMILY: row["family"], GENUS: genus, "species": name_of(row, "species")}
        joined.join([key, *((label, rank, name) for rank, name in known.items() if name)])
    sets: dict[Key, list[Key]] = {}
    for key in sorted(keys):
        sets.setdefault(joined.top(key), []).append(key)
    for label in LABELS:
        if (count := sum(top[0] == label for top in sets)) < folds:
            raise ValueError(f"{label}: {count} families or genera without common members for {folds} folds")
    sizes = {top: _sizes(row for key in members for row in keys[key]) for top, members in sets.items()}
    order = np.random.default_rng(seed).permutation(len(sets))
    of_kind: Counter[tuple[tuple[str, str], int]] = Counter()
    of_label: Counter[tuple[str, int]] = Counter()
    fold: dict[Key, int] = {}
    drawn = [list(sets)[place] for place in order]
    for top in sorted(drawn, key=lambda top: -sizes[top].total()):
        kind, _ = max(sizes[top].items(), key=lambda item: (item[1], item[0]))
        label = top[0]
        chosen = min(range(1, folds + 1), key=lambda n: (of_kind[kind, n], of_label[label, n], n))
        for of, size in sizes[top].items():
            of_kind[of, chosen] += size
            of_label[label, chosen] += size
        fold |= dict.fromkeys(sets[top], chosen)
    realm = {key: _most_frequent(row.get("realm", "") for row in members) for key, members in keys.items()}
    return Folds(fold, realm)


def _sizes(rows: Iterable[dict[str, str]]) -> Counter[tuple[str, str]]:
    """Bases that judge, by kind: label, and realm or group."""
    sizes: Counter[tuple[str, str]] = Counter()
    extra: Counter[str] = Counter()
    for row in rows:
        if row["split"] == EXTRA:
            extra[name_of(row, "genus")] += 1
            if extra[name_of(row, "genus")] > EXTRA_PER_GENUS:
                continue
        kind = row.get("realm", "") if row["label"] == LABELS[VIRUS] else row["group"]
        sizes[row["label"], kind] += min(int(row["length"]), COUNTED_BASES)
    return sizes


def _most_frequent(names: Iterable[str]) -> str:
    return max(Counter(names).items(), key=lambda item: (item[1], item[0]))[0]


def training_rows(manifest: Path, extra: Path | None) -> list[dict[str, str]]:
    """The rows of which folds are drawn, in the order of the corpus.

    Raises:
        ValueError: a manifest is not one.
        OSError: a file cannot be read.
    """
    rows = read_manifest(manifest)
    further = {} if extra is None else read_extra(extra, rows)
    main = [rows[name] for name in sorted(rows) if rows[name]["split"] == TRAIN]
    return main + [further[name] for name in sorted(further)]


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--extra-manifest", type=Path, help="of further records, none of a virus")
    parser.add_argument("--out", type=Path, default=DEFAULT, help="file of the table")
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        folds = draw(training_rows(options.manifest, options.extra_manifest), options.folds, options.seed)
        folds.write(options.out)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    for number in range(1, folds.count + 1):
        counts = Counter(
            f"{label}, {rank}" for (label, rank, _), fold in folds.fold.items() if fold == number
        )
        print(f"fold {number}: " + "; ".join(f"{count} of {name}" for name, count in sorted(counts.items())))
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
