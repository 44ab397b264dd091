"""The bundled sample: real sequences, and what each is known to be. See consumer/data/README.md."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Truth:
    """What a record of the sample is: `label` is virus or others."""

    label: str
    organism: str


@contextmanager
def sample_fasta() -> Iterator[Path]:
    """The sample's sequences as a file."""
    with as_file(files("consumer") / "data" / "sample.fasta") as path:
        yield path


def sample_truth() -> dict[str, Truth]:
    """The truth by record id, in the order of the sequences."""
    text = (files("consumer") / "data" / "sample_truth.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {row["id"]: Truth(row["label"], row["organism"]) for row in rows}
