"""Where a run reads and writes, and the options that the commands share."""

from __future__ import annotations

import argparse
import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from training.data.corpus import DEV, EXTRA, TRAIN, VALIDATION, Corpus
from training.data.folds import DEFAULT as FOLDS_FILE
from training.data.folds import NO_FOLD, Folds
from training.data.frame_table import Frames
from training.data.make_tables import evaluation_table, training_table
from training.model.losses import codons_of
from training.model.network import Network
from training.recipe import DEFAULT, Recipe
from virnucpro_core.sequence.tokens import DnaTokenizer

TRIAL, FINAL, EVERYTHING = "trial", "final", "everything"
PHASES = {TRIAL: (TRAIN,), FINAL: (TRAIN, DEV), EVERYTHING: (TRAIN, DEV, VALIDATION)}
"""What a phase trains on, besides the extra sources: the dev split gives a trial's temperature, validation judges the
final model, and what was trained on everything is judged by cross-validation alone. The phase `fold-N` trains on train,
dev and the extra sources without fold N, and is judged on that."""
_FOLD = "fold-"


def fold_phase(number: int) -> str:
    """The phase that leaves out a fold."""
    return f"{_FOLD}{number}"


def phase_name(text: str) -> str:
    """`text`, if it is a phase.

    Raises:
        ValueError: it is not.
    """
    if text not in PHASES and not (text.startswith(_FOLD) and text.removeprefix(_FOLD).isdecimal()):
        raise ValueError(text)
    return text


@dataclass(frozen=True)
class Workspace:
    """One phase of one recipe.

    data has genomes.npz and tokenizer.json, and folds.tsv where the folds are not those of training/folds.tsv; out
    takes what is made; cache takes tables and encoders, whose names say what they are made of, so that several recipes
    can share one folder.
    """

    data: Path
    out: Path
    phase: str
    recipe: Recipe
    processes: int
    device: torch.device
    cache: Path

    @property
    def genomes(self) -> Path:
        """File of the corpus."""
        return self.data / "genomes.npz"

    @property
    def tokenizer(self) -> Path:
        """File of the nucleotide tokenizer."""
        return self.data / "tokenizer.json"

    @cached_property
    def corpus(self) -> Corpus:
        """The genomes."""
        return Corpus.load(self.genomes)

    @cached_property
    def vocabulary(self) -> int:
        """Ids of the nucleotide tokenizer."""
        return DnaTokenizer(self.tokenizer).vocabulary_size

    @cached_property
    def codons(self) -> torch.Tensor:
        """Which codon each token of the nucleotide tokenizer is, see `codons_of`."""
        return codons_of(self.tokenizer)

    @cached_property
    def data_digest(self) -> str:
        """Names the genomes and the tokenizer, and the folds where one is left out: equal digests, equal data."""
        paths = (self.genomes, self.tokenizer, *([] if self.fold is None else [self.folds_file]))
        return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]

    @property
    def fold(self) -> int | None:
        """The fold that is left out, None in the other phases."""
        return int(self.phase.removeprefix(_FOLD)) if self.phase.startswith(_FOLD) else None

    @property
    def folds_file(self) -> Path:
        """File of the folds."""
        own = self.data / FOLDS_FILE.name
        return own if own.is_file() else FOLDS_FILE

    @cached_property
    def folds(self) -> Folds:
        """The folds."""
        return Folds.read(self.folds_file)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the phase trains on, all or a part of their records."""
        extra = (EXTRA,) if self.recipe.data.extra_weight > 0 and (self.corpus.splits == EXTRA).any() else ()
        return ((TRAIN, DEV) if self.fold is not None else PHASES[self.phase]) + extra

    @property
    def trained_on(self) -> npt.NDArray[np.int64]:
        """Indices of the records that the phase trains on.

        Where a fold is left out: no record of it, and none without a fold, which may be related to it. In a trial:
        no extra record of a genus of dev.
        """
        corpus, records = self.corpus, self.corpus.records_of(*self.splits)
        if self.fold is not None:
            fold = self.folds.of(corpus)[records]
            taken = (fold != self.fold) & (fold != NO_FOLD)
        elif self.phase == TRIAL:
            of_dev = np.isin(corpus.genera[records], corpus.genera[corpus.records_of(DEV)])
            taken = ~of_dev | (corpus.splits[records] != EXTRA)
        else:
            return records
        found: npt.NDArray[np.int64] = records[taken]
        return found

    @property
    def pretrained_in(self) -> str:
        """The phase whose encoders this one begins with: those of a trial serve the final model too."""
        return TRIAL if self.phase == FINAL else self.phase

    def key(self, *sections: str) -> str:
        """Names what is made of these data with these sections of the recipe; nothing else is taken up again."""
        return f"{self.recipe.digest(*sections)}-{self.data_digest}"

    @property
    def folder(self) -> Path:
        """What this phase makes."""
        return self.out / self.phase

    def network(self, dropout: float = 0.0) -> Network:
        """A new network on the device; its encoders compiled on a GPU."""
        network = Network(self.recipe.shape, self.vocabulary, dropout).to(self.device)
        if self.device.type == "cuda":
            network.compile_encoders()
        return network

    def training_file(self, length: int) -> Path:
        """The table of training chunks of `length` bases that `training` reads, made once."""
        owner = self if self.fold is None else replace(self, phase=EVERYTHING)
        path = self.cache / owner.phase / f"table-{length}-{owner.key('data')}.npz"
        if not path.exists():
            files = (self.genomes, self.tokenizer)
            training_table(*files, owner.trained_on, self.recipe.data, length, self.processes).save(path)
        return path

    def training(self, length: int) -> Frames:
        """The training chunks of `length` bases.

        Where a fold is left out they are those of the phase `everything` that are of records which are trained on: all
        folds share one table, of which each takes about two thirds.
        """
        table = Frames.load(self.training_file(length))
        return table if self.fold is None else table.of_records(self.trained_on)

    def dev(self, length: int, pieces: bool = False) -> Frames | None:
        """All chunks of the dev split in a trial; None in the other phases, which train on them."""
        return self.held_out(DEV, length, pieces) if self.phase == TRIAL else None

    def held_out(self, split: str, length: int, pieces: bool = False) -> Frames:
        """All chunks of a split that is not trained on, or of its pieces of 5 kb, made once."""
        path = self.cache / f"{split}-{length}{'-pieces' if pieces else ''}-{self.data_digest}.npz"
        if not path.exists():
            files, records = (self.genomes, self.tokenizer), self.corpus.records_of(split)
            evaluation_table(*files, records, length, pieces, self.processes).save(path)
        return Frames.load(path)

    def left_out_file(self, length: int) -> Path | None:
        """The table that `left_out` reads, made once; None where no fold is left out."""
        if self.fold is None:
            return None
        path = self.cache / self.phase / f"left-out-{length}-{self.data_digest}.npz"
        if not path.exists():
            files, records = (self.genomes, self.tokenizer), self.folds.judged(self.corpus, self.fold)
            evaluation_table(*files, records, length, False, self.processes).save(path)
        return path

    def left_out(self, length: int) -> Frames | None:
        """All chunks of the records of the fold that is left out that judge; None where none is."""
        path = self.left_out_file(length)
        return None if path is None else Frames.load(path)


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with what the commands share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of genomes.npz and tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="folder that takes everything that is made")
    parser.add_argument("--cache", type=Path, help="folder of tables and encoders, by default that of --out")
    parser.add_argument("--recipe", type=Path, default=DEFAULT)
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="change the recipe"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that prepare frames")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def workspace(given: argparse.Namespace, phase: str) -> Workspace:
    """The workspace that the options ask for, or SystemExit with one line that names what is wrong."""
    try:
        recipe = Recipe.load(given.recipe, given.set)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{given.recipe}: {error}") from error
    cache = given.cache or given.out
    work = Workspace(given.data, given.out, phase, recipe, given.processes, torch.device(given.device), cache)
    for path, command in ((work.genomes, "prepare_data"), (work.tokenizer, "train_tokenizer")):
        if not path.is_file():
            raise SystemExit(f"{path} is not there: make it with python -m training.data.{command}")
    return work
