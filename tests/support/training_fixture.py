"""A tiny made-up corpus for the training: genomes that code from end to end, of two labels and two domains."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from training.data.corpus import Corpus
from training.data.folds import draw, training_rows
from training.data.prepare_data import COLUMNS, build
from training.data.train_tokenizer import sample_pieces, train_tokenizer
from training.recipe import Recipe
from virnucpro_core.sequence.tokens import DnaTokenizer

DEV_SHARE = 0.55
"""So large because a family may have a fifth of the share at most, and each label has ten here."""
TINY = (
    *("shape.esm2_layers=1", "shape.esm2_dim=32", "shape.esm2_heads=2"),
    *("shape.dna_layers=2", "shape.dna_dim=32", "shape.dna_heads=2", "shape.dna_intermediate=48"),
    *("shape.head_hidden=16", "data.chunks=60"),
    *("pretrain.optimiser.steps=4", "pretrain.optimiser.frames=16", "pretrain.optimiser.warmup_steps=2"),
    *("head.optimiser.steps=4", "head.optimiser.frames=16", "head.optimiser.warmup_steps=2"),
    *("head.ensemble=2", "head.evals=2"),
)
"""Changes to the recipe that make a run of seconds, of no use but to see that it runs."""
_STOPS = ("TAA", "TAG", "TGA")
_CODONS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in _STOPS]


def coding(bases: int, gc: float, rng: np.random.Generator) -> str:
    """Codons without a stop, so that each stretch has an open frame; gc: how much G and C are preferred."""
    weights = np.array([gc ** sum(base in "GC" for base in codon) for codon in _CODONS])
    drawn = rng.choice(len(_CODONS), bases // 3 + 1, p=weights / weights.sum())
    return "".join(_CODONS[i] for i in drawn)[:bases]


def row(record_id: str, label: str, split: str, length: int = 3000, **more: str) -> dict[str, str]:
    """One row of a manifest."""
    given = {"id": record_id, "label": label, "split": split, "length": str(length), **more}
    return dict.fromkeys((*COLUMNS, "class", "host", "novelty"), "") | given


def rows() -> list[dict[str, str]]:
    """26 records: ten of each label to train on, each of its own family or genus, half of them of prokaryotes;
    of three validation records of each label the last is of a genus that is trained on."""
    found = []
    for label in ("virus", "others"):
        for number in range(13):
            validation = number >= 10
            prokaryotic = number % 2 == 0
            length = 5300 if validation else 3000 + 20 * number
            kind = {"group": f"Family{number}viridae", "family": f"Family{number}viridae"}
            if label == "others":
                kind = {"group": "bacteria" if prokaryotic else "plant", "family": ""}
            genus = f"{label.title()}genus{0 if number == 12 else number}"
            found.append(
                row(
                    f"{label}{number:02}",
                    label,
                    "validation" if validation else "train",
                    length,
                    **kind,
                    genus=genus.upper() if validation else genus,
                    species=f"{genus} number {number}",
                    host="bacteria" if prokaryotic else "plants",
                    novelty="" if not validation else "seen_genus" if number == 12 else "novel_genus",
                )
            )
    return found


def extra_rows() -> list[dict[str, str]]:
    """Seven further records: three of one genus, two of one each, one of a genus of the others, one of none."""
    genera = ("Extragenus0", "Extragenus0", "Extragenus0", "Extragenus1", "Extragenus2", "Othersgenus1", "")
    return [
        row(
            f"extra{number}",
            "others",
            "train",
            1600,
            group="protozoa" if number % 2 else "plant",
            genus=genus,
            species=f"Extra species {number}",
        )
        for number, genus in enumerate(genera)
    ]


def write_extra(folder: Path) -> tuple[Path, Path]:
    """The further records as files, (FASTA, manifest)."""
    rng = np.random.default_rng(6)
    fasta, manifest = folder / "extra.fasta", folder / "extra_manifest.tsv"
    fasta.write_text(
        "".join(f">{one['id']}\n{coding(int(one['length']), 0.7, rng)}\n" for one in extra_rows())
    )
    write_manifest(manifest, extra_rows())
    return fasta, manifest


def write_manifest(path: Path, given: Sequence[dict[str, str]]) -> None:
    """Rows as a table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "class", "host", "novelty"], delimiter="\t")
        writer.writeheader()
        writer.writerows(given)


def write_data(folder: Path) -> tuple[Path, Path]:
    """The corpus as files, (FASTA, manifest); one record in lower case, one with letters that are not bases."""
    rng = np.random.default_rng(5)
    fasta, manifest = folder / "all.fasta", folder / "manifest.tsv"
    lines = []
    for number, one in enumerate(rows()):
        letters = coding(int(one["length"]), 1.6 if one["label"] == "virus" else 0.7, rng)
        letters = letters.lower() if number == 1 else letters
        letters = letters[:100] + "NNNR" + letters[104:] if number == 2 else letters
        lines += [f">{one['id']}|{one['group']}", letters]
    fasta.write_text("\n".join(lines) + "\n")
    write_manifest(manifest, rows())
    return fasta, manifest


@dataclass(frozen=True)
class Data:
    """What prepare_data and train_tokenizer make, as files and loaded."""

    folder: Path
    corpus: Corpus
    tokenizer: DnaTokenizer

    @property
    def genomes(self) -> Path:
        """File of the corpus."""
        return self.folder / "genomes.npz"

    @property
    def tokenizer_file(self) -> Path:
        """File of the tokenizer."""
        return self.folder / "tokenizer.json"


_KEPT: list[tempfile.TemporaryDirectory[str]] = []  # folders go when the process ends


@cache
def data() -> Data:
    """The corpus and a tokenizer of it, made once a process. For reading only."""
    _KEPT.append(tempfile.TemporaryDirectory())
    folder = Path(_KEPT[-1].name)
    fasta, manifest = write_data(folder)
    corpus = build([fasta], manifest, DEV_SHARE, seed=1)
    corpus.save(folder / "genomes.npz")
    train_tokenizer(sample_pieces(corpus, 600, 150, seed=1)).save(str(folder / "tokenizer.json"))
    return Data(folder, corpus, DnaTokenizer(folder / "tokenizer.json"))


@cache
def data_with_extra() -> Data:
    """The same with the further records and two folds, and the same tokenizer. For reading only."""
    _KEPT.append(tempfile.TemporaryDirectory())
    folder = Path(_KEPT[-1].name)
    (fasta, manifest), (extra, extra_manifest) = write_data(folder), write_extra(folder)
    corpus = build([fasta, extra], manifest, DEV_SHARE, seed=1, extra_manifest=extra_manifest)
    corpus.save(folder / "genomes.npz")
    shutil.copy(data().tokenizer_file, folder)
    draw(training_rows(manifest, extra_manifest), folds=2).write(folder / "folds.tsv")
    return Data(folder, corpus, DnaTokenizer(folder / "tokenizer.json"))


def tiny_recipe(*changes: str) -> Recipe:
    """The recipe with `TINY`, and more changes."""
    return Recipe.load(changes=[*TINY, *changes])


def bare_corpus(rows: Sequence[dict[str, str]]) -> Corpus:
    """A corpus of rows whose records have no letters, split as the rows say."""
    from training.data.prepare_data import corpus_of

    return corpus_of({one["id"]: one for one in rows}, {one["id"]: b"" for one in rows}, 0.0, 1, ())
