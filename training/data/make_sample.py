"""Makes the sample that `virnucpro demo` scores: real RefSeq sequences of the validation split.

    python -m training.data.make_sample --manifest manifest.tsv --out DIR virus.fasta.gz nonvirus.fasta.gz

The choice knows nothing of any model's score. Taken is what comes from a repository under a permissive
licence, has a RefSeq accession, and is of the validation split, which no weight of the bundled model has
seen:

* 20 viral records of 300 to 6000 bases, whole: the three of `NAMED`, then one of each further family, then a
  second one of some families, drawn with a fixed seed;
* 20 regions of 500 to 3000 bases of bacteria, archaea and human, at seeded places, whose ids give the region
  in the coordinates of the accession, counted from 1. A region without any open frame is drawn again: nothing
  of it would be scored.

The letters are the source's, but for one region that is written in lower case, as soft-masked assemblies are.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from virnucpro_core.sequence.chunks import chunk_spans
from virnucpro_core.sequence.fasta import read_sequences
from virnucpro_core.sequence.frames import open_frames_by_span

PERMISSIVE = ("MIT", "BSD", "Biopython/BSD-3-Clause")
NAMED = {
    "NC_001422.1": "phiX174, the control of every Illumina run",
    "NC_043628": "the shortest, from a segmented genome",
    "NC_040511.1": "it holds an N",
}
VIRUSES = REGIONS = 20
VIRUS_BASES = (300, 6000)
REGION_BASES = (500, 3000)
CHUNK_BASES = 500
MOST_PHAGE_HITS = 20  # windows with more protein hits to phages may be prophage: their label is not certain
ACCESSION_REGION = re.compile(r"(?P<accession>N[CZ]_[A-Z]*\d+\.\d+)(?::| .* region )(?P<start>\d+)-")


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the sample, with its known truth."""

    id: str
    label: str
    organism: str
    sequence: str
    repository: str
    licence: str


def usable(row: dict[str, str]) -> bool:
    """Validation split, permissive licence."""
    return row["split"] == "validation" and row["repo_licence"] in PERMISSIVE


def organism_of(row: dict[str, str]) -> str:
    """The sequence's name for people, out of the manifest's notes; they begin differently in each source."""
    name = row["notes"].split(";")[-1].split(",")[0]
    return re.sub(r"^\s*(accn\|)?N[CZ]_\S+\s+", "", name).strip()


def choose_viruses(rows: list[dict[str, str]], rng: np.random.Generator) -> list[dict[str, str]]:
    """`NAMED` first, then families in a drawn order, one record each, round after round."""
    shortest, longest = VIRUS_BASES
    candidates = [
        row
        for row in rows
        if row["label"] == "virus"
        and row["id"].startswith("NC_")
        and shortest <= int(row["length"]) <= longest
    ]
    chosen = [row for row in candidates if row["id"] in NAMED]
    families = defaultdict(list)
    for row in candidates:
        if row["id"] not in NAMED:
            families[row["family"]].append(row)
    named_families = {row["family"] for row in chosen}
    drawn = [str(family) for family in rng.permutation(sorted(families))]
    order = [family for family in drawn if family not in named_families]
    order += drawn * VIRUSES
    for family in order:
        if len(chosen) == VIRUSES:
            break
        if members := families[family]:
            chosen.append(members.pop(int(rng.integers(len(members)))))
    return chosen


def choose_regions(
    rows: list[dict[str, str]], sequences: dict[str, str], rng: np.random.Generator
) -> list[Entry]:
    """One region of each usable window, and a second one of some, until there are `REGIONS`."""
    windows = [
        (row, match)
        for row in rows
        if row["label"] == "others"
        and row["id"].startswith(("NC_", "vf_"))
        and int(row["phage_aa_hits"] or 0) <= MOST_PHAGE_HITS
        and (match := ACCESSION_REGION.search(row["notes"]))
    ]
    order = [windows[i] for i in rng.permutation(len(windows))]
    taken: dict[str, list[tuple[int, int]]] = defaultdict(list)
    entries: list[Entry] = []
    for row, match in order * REGIONS:
        if len(entries) == REGIONS:
            break
        bases = int(rng.integers(REGION_BASES[0], REGION_BASES[1] + 1))
        at = int(rng.integers(int(row["length"]) - bases + 1))
        if any(at < end and start < at + bases for start, end in taken[row["id"]]):
            continue
        sequence = sequences[row["id"]][at : at + bases]
        if not any(open_frames_by_span(sequence, chunk_spans(bases, CHUNK_BASES))):
            continue
        taken[row["id"]].append((at, at + bases))
        first = int(match["start"]) + at
        entries.append(
            Entry(
                id=f"{match['accession']}:{first}-{first + bases - 1}",
                label="others",
                organism=row["species"],
                sequence=sequence,
                repository=row["source_repo"],
                licence=row["repo_licence"],
            )
        )
    return entries


def make_sample(paths: list[Path], manifest: Path, seed: int) -> list[Entry]:
    """The sample's records, viruses and others mixed in a drawn order."""
    with manifest.open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if usable(row)]
    rows.sort(key=lambda row: row["id"])
    wanted = {row["id"] for row in rows}
    sequences = {
        name: sequence
        for path in paths
        for record_id, _, sequence in read_sequences(str(path))
        if (name := record_id.split("|", 1)[0]) in wanted
    }
    rng = np.random.default_rng(seed)
    viruses = [
        Entry(
            row["id"],
            "virus",
            organism_of(row),
            sequences[row["id"]],
            row["source_repo"],
            row["repo_licence"],
        )
        for row in choose_viruses(rows, rng)
    ]
    others = choose_regions(rows, sequences, rng)
    human = next(i for i, entry in enumerate(others) if entry.organism == "Homo sapiens")
    others[human] = replace(others[human], sequence=others[human].sequence.lower())
    entries = viruses + others
    return [entries[i] for i in rng.permutation(len(entries))]


def write_sample(entries: Iterable[Entry], folder: Path) -> None:
    """sample.fasta, 70 letters a line, and sample_truth.tsv, in the same order."""
    with (folder / "sample.fasta").open("w", encoding="ascii") as fasta:
        for entry in entries:
            fasta.write(
                f">{entry.id} {entry.organism}\n" + "\n".join(textwrap.wrap(entry.sequence, 70)) + "\n"
            )
    with (folder / "sample_truth.tsv").open("w", encoding="utf-8", newline="") as truth:
        writer = csv.writer(truth, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", "label", "organism", "length", "source", "licence"])
        for entry in entries:
            row = [
                entry.id,
                entry.label,
                entry.organism,
                len(entry.sequence),
                entry.repository,
                entry.licence,
            ]
            writer.writerow(row)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fasta", nargs="+", type=Path, help="FASTA files, .gz or not")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder that takes the two files")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    entries = make_sample(options.fasta, options.manifest, options.seed)
    write_sample(entries, options.out)
    bases = sum(len(entry.sequence) for entry in entries)
    viruses = sum(entry.label == "virus" for entry in entries)
    print(f"wrote {len(entries)} records, {viruses} viral, {bases} bases to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
