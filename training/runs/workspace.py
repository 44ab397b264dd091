"""Where a run reads and writes, and the options that the commands share."""

from __future__ import annotations

import argparse
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from training.data.corpus import DEV, TRAIN, Corpus
from training.data.frame_table import Frames
from training.data.make_tables import evaluation_table, training_table
from training.model.losses import codons_of
from training.model.network import Network
from training.recipe import DEFAULT, Recipe
from virnucpro_core.sequence.tokens import DnaTokenizer

TRIAL, FINAL = "trial", "final"
PHASES = {TRIAL: (TRAIN,), FINAL: (TRAIN, DEV)}
"""What a phase trains on. Recipes are compared by trials, on the dev split; the final model has that too."""


@dataclass(frozen=True)
class Workspace:
    """One phase of one recipe.

    data has genomes.npz and tokenizer.json; out takes what is made; cache takes tables and encoders, whose names say
    what they are made of, so that several recipes can share one folder.
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
        """Names the genomes and the tokenizer: equal digests, equal data."""
        files = b"".join(path.read_bytes() for path in (self.genomes, self.tokenizer))
        return hashlib.sha256(files).hexdigest()[:16]

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

    def training(self, length: int) -> Frames:
        """The table of training chunks of `length` bases, made once."""
        recipe = self.recipe.data
        path = self.cache / self.phase / f"table-{length}-{self.key('data')}.npz"
        if not path.exists():
            splits = PHASES[self.phase]
            training_table(self.genomes, self.tokenizer, splits, recipe, length, self.processes).save(path)
        return Frames.load(path)

    def dev(self, length: int, pieces: bool = False) -> Frames | None:
        """All chunks of the dev split; None in the final phase, which trains on them."""
        return None if DEV in PHASES[self.phase] else self.held_out(DEV, length, pieces)

    def held_out(self, split: str, length: int, pieces: bool = False) -> Frames:
        """All chunks of a split that is not trained on, or of its pieces of 5 kb, made once."""
        path = self.cache / f"{split}-{length}{'-pieces' if pieces else ''}-{self.data_digest}.npz"
        if not path.exists():
            files = (self.genomes, self.tokenizer)
            evaluation_table(*files, split, length, pieces, self.processes).save(path)
        return Frames.load(path)


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
