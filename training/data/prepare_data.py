"""Genomes (FASTA) and their manifest (TSV) -> one compact npz that the training reads.

    python -m training.data.prepare_data --manifest manifest.tsv --out DIR virus.fasta.gz nonvirus.fasta.gz

With `--extra-manifest extra_manifest.tsv`, and its FASTA file among the others, further records that are no viruses
go to the split `extra`; they come after all others, so that these are numbered as they are without them.

The manifest has one row a record with the columns id, label (virus or others), group, family, genus, species,
length and split (train or validation; any other split is left out), and may have class, host and novelty. Genus
and species are compared without regard to case; an empty one is unknown. From the training split relatives are
moved together to a third split, `dev`, which chooses the recipe, so that the validation split chooses nothing:
whole viral families, whole genera of phages without a family, whole genera of the rest, drawn at random, and
`--dev-genera`, which stand for their kingdoms: these have so few genera that chance would take none, or all.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from training.data.corpus import DEV, DOMAINS, EXTRA, TRAIN, VALIDATION, VIRUS, Corpus, hold_out, ids_digest
from virnucpro_core.evaluation.labels import LABELS
from virnucpro_core.sequence.fasta import read_sequences

COLUMNS = ("id", "label", "group", "family", "genus", "species", "length", "split")
NOT_A_FAMILY = ("unclassified_virus", "Caudoviricetes_no_family")
DEV_GENERA = ("Drosophila", "Mus", "Canis", "Fusarium", "Malassezia")
PROKARYOTES = ("bacteria", "archaea", "plasmid")
PHAGES = ("Caudoviricetes", "Malgrandaviricetes", "Tectiliviricetes")  # classes, for those without a host


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """Rows by record id, for the splits train and validation.

    Raises:
        ValueError: a column is missing, an id comes twice, or a label is another word.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
            raise ValueError(f"{path} has no column {', '.join(missing)}")
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            if row["split"] not in (TRAIN, VALIDATION):
                continue
            if row["label"] not in LABELS:
                raise ValueError(
                    f"{path}: the label of {row['id']} is {row['label']!r}, not {' or '.join(LABELS)}"
                )
            if row["id"] in found:
                raise ValueError(f"{path}: {row['id']} is there a second time")
            found[row["id"]] = row
    return found


def read_extra(path: Path, others: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Rows of a manifest of further records by id, all in the split `extra`.

    others: the records that are there already, by id.

    Raises:
        ValueError: it is not a manifest, a record is a virus, one for validation, or among `others`.
    """
    rows = read_manifest(path)
    for record_id, row in rows.items():
        if row["label"] == LABELS[VIRUS] or row["split"] != TRAIN:
            raise ValueError(
                f"{path}: {record_id} is of {row['label']}, {row['split']}; extra records are others, train"
            )
        if record_id in others:
            raise ValueError(f"{path}: {record_id} is in the other manifest too")
    return {record_id: row | {"split": EXTRA} for record_id, row in rows.items()}


def name_of(row: dict[str, str], rank: str) -> str:
    """The genus or species of a record in lower case, "" if unknown."""
    return row[rank].strip().lower()


def domain(row: dict[str, str]) -> str:
    """Whether a record is of prokaryotes or eukaryotes, or, for a virus, infects them; see DOMAINS."""
    if row["label"] != LABELS[VIRUS]:
        return DOMAINS[row["group"] not in PROKARYOTES]
    host = row.get("host", "").startswith(PROKARYOTES)
    return DOMAINS[not (host or row.get("class") in PHAGES)]


def held_out_key(row: dict[str, str]) -> str:
    """What a record shares with its relatives: the family of a virus, the genus of the rest, or the species."""
    if row["label"] == LABELS[VIRUS] and row["group"] not in NOT_A_FAMILY:
        return row["family"] or row["group"]
    return name_of(row, "genus") or name_of(row, "species")


def assign_splits(
    rows: list[dict[str, str]], share: float, seed: int, dev_genera: Sequence[str] = DEV_GENERA
) -> list[str]:
    """The split of each row: the manifest's, with the non-viral `dev_genera` and about `share` of what is left
    of each label's train bases moved to dev."""
    rng = np.random.default_rng(seed)
    chosen = {name.lower() for name in dev_genera}
    splits = [
        DEV
        if row["split"] == TRAIN and row["label"] != LABELS[VIRUS] and name_of(row, "genus") in chosen
        else row["split"]
        for row in rows
    ]
    for label in LABELS:
        members = [i for i, row in enumerate(rows) if splits[i] == TRAIN and row["label"] == label]
        keys = [held_out_key(rows[i]) for i in members]
        taken = hold_out(keys, [int(rows[i]["length"]) for i in members], share, rng)
        for i, key in zip(members, keys, strict=True):
            if key in taken:
                splits[i] = DEV
    return splits


def build(
    paths: list[Path],
    manifest: Path,
    share: float,
    seed: int,
    dev_genera: Sequence[str] = DEV_GENERA,
    extra_manifest: Path | None = None,
) -> Corpus:
    """The corpus.

    Raises:
        ValueError: the manifest is not one, or a record of it is in no FASTA file or has no letters there.
        OSError, SequenceFileError: a file cannot be read.
    """
    rows = read_manifest(manifest)
    if extra_manifest is not None:
        rows |= read_extra(extra_manifest, rows)
    sequences: dict[str, bytes] = {}
    for path in paths:
        for record_id, _, sequence in read_sequences(str(path)):
            name = record_id.split("|", 1)[0]
            if name in rows:
                sequences[name] = sequence.upper().encode("ascii")
    if missing := [name for name in rows if not sequences.get(name)]:
        raise ValueError(
            f"{len(missing)} records of the manifest are in none of the files, or empty there, e.g. {missing[0]}"
        )
    return corpus_of(rows, sequences, share, seed, dev_genera)


def corpus_of(
    rows: Mapping[str, dict[str, str]],
    sequences: Mapping[str, bytes],
    share: float,
    seed: int,
    dev_genera: Sequence[str] = DEV_GENERA,
) -> Corpus:
    """The corpus of these rows and their upper-case letters, both by id; those of the split `extra` come last."""
    names = sorted(rows, key=lambda name: (rows[name]["split"] == EXTRA, name))
    ordered = [rows[name] for name in names]
    lengths = [len(sequences[name]) for name in names]
    return Corpus(
        codes=np.frombuffer(b"".join(sequences[name] for name in names), dtype=np.uint8),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids=np.array(names),
        groups=np.array([row["group"] for row in ordered]),
        splits=np.array(assign_splits(ordered, share, seed, dev_genera)),
        labels=np.array([LABELS.index(row["label"]) for row in ordered], dtype=np.uint8),
        genera=np.array([name_of(row, "genus") for row in ordered]),
        species=np.array([name_of(row, "species") for row in ordered]),
        novelty=np.array([row.get("novelty", "") for row in ordered]),
        domains=np.array([domain(row) for row in ordered]),
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fasta", nargs="+", type=Path, help="FASTA files, .gz or not")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--extra-manifest", type=Path, help="of further records, none of a virus")
    parser.add_argument("--out", type=Path, required=True, help="folder; genomes.npz is written into it")
    parser.add_argument("--dev-share", type=float, default=0.12, help="share of the train bases moved to dev")
    parser.add_argument("--dev-genera", nargs="*", default=DEV_GENERA, help="genera moved to dev in any case")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        corpus = build(
            options.fasta,
            options.manifest,
            options.dev_share,
            options.seed,
            options.dev_genera,
            options.extra_manifest,
        )
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    target = options.out / "genomes.npz"
    corpus.save(target)
    for split in (TRAIN, DEV, VALIDATION, EXTRA):
        records = corpus.records_of(split)
        if len(records) == 0:
            continue
        for label, name in enumerate(LABELS):
            chosen = records[corpus.labels[records] == label]
            groups, bases = len(set(corpus.groups[chosen])), corpus.lengths[chosen].sum()
            print(f"{split:10} {name:6} {len(chosen):5} records {bases:9} bp {groups:3} groups")
        others = [other for other in (TRAIN, DEV) if other != split]
        if split in (DEV, VALIDATION):
            unseen = int(corpus.unseen(split, *others).sum())
            print(
                f"{split:10} {unseen} of {len(records)} records are of a genus that is not in {' or '.join(others)}"
            )
        print(f"{split:10} ids sha256 {ids_digest([str(i) for i in corpus.ids[records]])}")
    print(f"wrote {target} ({target.stat().st_size / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
