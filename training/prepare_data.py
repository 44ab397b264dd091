"""Genomes (FASTA) and their manifest (TSV) -> one compact npz that the training reads.

    python -m training.prepare_data --manifest manifest.tsv --out DIR virus.fasta.gz nonvirus.fasta.gz

The manifest has one row a record with at least the columns id, label (virus or others), group, family, genus,
species and split (train or validation; any other split is left out). From the training split whole viral
families and whole non-viral genera are moved to a third split, `dev`, which picks the epoch, so that the
validation split picks nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from training.corpus import DEV, LABELS, TRAIN, VALIDATION, VIRUS, Corpus, hold_out, ids_digest
from virnucpro_core.fasta import read_sequences

NOT_A_FAMILY = ("unclassified_virus", "Caudoviricetes_no_family")


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """Rows by record id, for the splits train and validation."""
    with path.open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}
    return {key: row for key, row in rows.items() if row["split"] in (TRAIN, VALIDATION)}


def held_out_key(row: dict[str, str]) -> str:
    """What a record shares with its relatives: the family of a virus, the genus (or species) of the rest."""
    if row["label"] == LABELS[VIRUS]:
        return "" if row["group"] in NOT_A_FAMILY else row["family"] or row["group"]
    return row["genus"] or row["species"]


def assign_splits(rows: list[dict[str, str]], share: float, seed: int) -> list[str]:
    """The split of each row: the manifest's, with about `share` of each label's train bases moved to dev."""
    rng = np.random.default_rng(seed)
    splits = [row["split"] for row in rows]
    for label in LABELS:
        members = [i for i, row in enumerate(rows) if row["split"] == TRAIN and row["label"] == label]
        keys = [held_out_key(rows[i]) for i in members]
        taken = hold_out(keys, [int(rows[i]["length"]) for i in members], share, rng)
        for i, key in zip(members, keys, strict=True):
            if key in taken:
                splits[i] = DEV
    return splits


def build(paths: list[Path], manifest: Path, share: float, seed: int) -> Corpus:
    """The corpus; raises ValueError when a record of the manifest is in no FASTA file."""
    rows = read_manifest(manifest)
    sequences: dict[str, bytes] = {}
    for path in paths:
        for record_id, _, sequence in read_sequences(str(path)):
            name = record_id.split("|", 1)[0]
            if name in rows:
                sequences[name] = sequence.upper().encode("ascii")
    missing = [name for name in rows if name not in sequences]
    if missing:
        raise ValueError(f"{len(missing)} records of {manifest} are in none of the files, e.g. {missing[0]}")
    names = sorted(rows)
    ordered = [rows[name] for name in names]
    lengths = [len(sequences[name]) for name in names]
    return Corpus(
        codes=np.frombuffer(b"".join(sequences[name] for name in names), dtype=np.uint8),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids=np.array(names),
        groups=np.array([row["group"] for row in ordered]),
        splits=np.array(assign_splits(ordered, share, seed)),
        labels=np.array([LABELS.index(row["label"]) for row in ordered], dtype=np.uint8),
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fasta", nargs="+", type=Path, help="FASTA files, .gz or not")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder; genomes.npz is written into it")
    parser.add_argument("--dev-share", type=float, default=0.08, help="share of the train bases moved to dev")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    corpus = build(options.fasta, options.manifest, options.dev_share, options.seed)
    target = options.out / "genomes.npz"
    corpus.save(target)
    for split in (TRAIN, DEV, VALIDATION):
        records = corpus.records_of(split)
        for label, name in enumerate(LABELS):
            chosen = records[corpus.labels[records] == label]
            groups, bases = len(set(corpus.groups[chosen])), corpus.lengths[chosen].sum()
            print(f"{split:10} {name:6} {len(chosen):5} records {bases:9} bp {groups:3} groups")
        print(f"{split:10} ids sha256 {ids_digest([str(i) for i in corpus.ids[records]])}")
    print(f"wrote {target} ({target.stat().st_size / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
