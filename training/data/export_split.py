"""Write the records of a split whose genera were not trained on, for `virnucpro evaluate`.

    python -m training.data.export_split --data DATA --split validation --out FOLDER
    virnucpro evaluate FOLDER/validation.fasta --labels FOLDER/validation.tsv

See `Corpus.unseen` for what is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.data.corpus import SPLITS, VALIDATION, Corpus
from virnucpro_core.atomic_files import atomic_write
from virnucpro_core.evaluation.labels import LABELS


def export(corpus: Corpus, split: str, folder: Path) -> int:
    """Write `SPLIT.fasta` and `SPLIT.tsv` (id, label, group) to a folder, made if missing; the number of records.

    The final models are trained on all other splits, so a record is unseen if its genus is in none of them.
    """
    trained_on = [other for other in SPLITS if other != split]
    unseen = corpus.unseen(split, *trained_on)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        atomic_write(folder / f"{split}.fasta", folder / f"{split}.tsv") as (fasta, table),
        fasta.open("w", encoding="utf-8") as sequences,
        table.open("w", encoding="utf-8") as labels,
    ):
        labels.write("id\tlabel\tgroup\n")
        for record in corpus.records_of(split):
            if not unseen[record]:
                continue
            name = corpus.ids[record]
            sequences.write(f">{name}\n{corpus.sequence(int(record))}\n")
            labels.write(f"{name}\t{LABELS[corpus.labels[record]]}\t{corpus.groups[record]}\n")
    return int(unseen.sum())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with genomes.npz")
    parser.add_argument("--split", choices=SPLITS, default=VALIDATION)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    written = export(Corpus.load(given.data / "genomes.npz"), given.split, given.out)
    print(f"wrote {written} records of {given.split} to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
