"""How good a bundle is on a split of the corpus, measured through the service's own engine.

    python -m training.reports.evaluate --data DATA --bundle FOLDER --out REPORT.json

Chunks are cut as the service cuts them; intervals come from drawing genomes, never chunks. Each metric is given for
all records (`all`) and for those of genera that were not trained on (`unseen_genera`), which is the one to quote. The
baseline is trained on the same splits and scored on the same chunks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.corpus import DEV, EXTRA, SPLITS, TRAIN, VALIDATION, Corpus
from training.data.frame_table import DNA_PAD, Frames
from training.data.make_tables import evaluation_table
from training.progress import progress
from training.reports.baseline import CHUNKS, NAME, Baseline, table
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.evaluation.metrics import (
    FloatArray,
    binary_metrics,
    by_kind,
    curves,
    mean_margins,
)
from virnucpro_core.models.engine import Engine
from virnucpro_core.scoring.packing import batches
from virnucpro_core.scoring.verdicts import verdict_margins
from virnucpro_core.sequence.prepare import PreparedFrame
from virnucpro_core.sequence.tokens import ESM2_PAD

MANIFEST_GROUPS = ("all", "unseen_genera", "by_group")  # of the chunks' metrics, what a manifest holds


def engine_margins(engine: Engine, frames: Frames) -> FloatArray:
    """Log odds of a virus of all frames, float64 [frames], in batches of the engine's own budget."""
    prepared = [
        PreparedFrame(0, "", p[p != ESM2_PAD].astype(np.int32), d[d != DNA_PAD].astype(np.int32))
        for p, d in zip(frames.protein, frames.dna, strict=True)
    ]
    parts = [np.zeros((0, 2), dtype=np.float32)]
    with progress("scoring", len(prepared)) as advance:
        for batch in batches(prepared, engine.default_token_budget):
            parts.append(engine.score(batch))
            advance(len(batch))
    scores = np.clip(np.concatenate(parts).astype(np.float64), 1e-9, 1.0)
    margins: FloatArray = np.log(scores[:, 1]) - np.log(scores[:, 0])
    return margins


class Judge:
    """Metrics of margins against the known labels.

    Args:
        corpus: the genomes.
        unseen: bool [records], see `Corpus.unseen`.
    """

    def __init__(self, corpus: Corpus, unseen: npt.NDArray[np.bool_]) -> None:
        self._corpus, self._unseen = corpus, unseen

    def of(self, margins: FloatArray, record: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Metrics of pieces of any kind: of all, and of those of records of unseen genera.

        margins [pieces]; record int64 [pieces], whose they are.
        """
        virus, new = self._corpus.labels[record] == 1, self._unseen[record]
        return {
            "all": binary_metrics(margins, virus, record),
            "unseen_genera": binary_metrics(margins[new], virus[new], record[new]),
        }

    def of_parts(
        self, margins: FloatArray, owner: npt.NDArray[np.int64], record: npt.NDArray[np.int64]
    ) -> dict[str, Any]:
        """Metrics of what chunks are parts of (5 kb pieces, records): the mean margin of their chunks.

        margins, owner, record [chunks].
        """
        _, first, place = np.unique(owner, return_index=True, return_inverse=True)
        return self.of(mean_margins(margins, place), record[first])

    def by_kind(self, margins: FloatArray, record: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Metrics of chunks by how new they are, and by group."""
        corpus = self._corpus
        virus = corpus.labels[record] == 1
        return {
            "by_novelty": by_kind(margins, virus, record, corpus.novelty[record]),
            "by_group": by_kind(margins, virus, record, corpus.groups[record]),
        }


def evaluate(
    bundle: Bundle,
    genomes: Path,
    split: str,
    trained_on: Sequence[str],
    *,
    baseline_chunks: int = CHUNKS,
    processes: int = 1,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, Any]:
    """Cut a split's records and measure a bundle on them: the whole report.

    Args:
        bundle: measured as it is: with its own tokenizer, its temperature, its weights as they are stored.
        genomes: file of the corpus.
        split: measured.
        trained_on: the splits that the model has seen, which the baseline is trained on too.
        baseline_chunks: that it is trained on.
        processes: that cut the records.
        device, precision: of the engine.

    Raises:
        ValueError: the split has no open frame of a virus, or none of the others.
    """
    engine = Engine(bundle, device, precision)
    length, tokenizer = bundle.expected_length, bundle.file("tokenizer")
    corpus = Corpus.load(genomes)
    chunks, pieces = (
        evaluation_table(genomes, tokenizer, corpus.records_of(split), length, cut, processes)
        for cut in (False, True)
    )
    record = chunks.chunk_record
    virus = corpus.labels[record] == 1
    if virus.all() or not virus.any():
        raise ValueError(f"the split {split} has no open frames of viruses, or none of others")
    judge = Judge(corpus, corpus.unseen(split, *trained_on))
    frames = engine_margins(engine, chunks)
    margins = verdict_margins(frames, chunks.frame_chunk)
    in_pieces = verdict_margins(engine_margins(engine, pieces), pieces.frame_chunk)
    records, place = np.unique(record, return_inverse=True)
    without = int(chunks.without[0])
    other = Baseline(corpus, trained_on, length, baseline_chunks)
    base, base_in_pieces = (
        other.margins(table(corpus, t.chunk_record, t.chunk_span)) for t in (chunks, pieces)
    )
    return {
        "bundle": bundle.manifest.id,
        "temperature": bundle.manifest.temperature,
        "split": split,
        "length": length,
        "precision": engine.info.precision,
        "device": engine.info.device,
        "trained_on": list(trained_on),
        "frames": len(chunks),
        "chunks": len(margins),
        "chunks_without_open_frame": without,
        "share_without_open_frame": round(without / (without + len(margins)), 4),
        "chunk": {**judge.of(margins, record), **judge.by_kind(margins, record)},
        "pieces_of_5kb": judge.of_parts(in_pieces, pieces.chunk_piece, pieces.chunk_record),
        "records": judge.of_parts(margins, record, record),
        "records_by_verdict_rule": judge.of(verdict_margins(frames, place[chunks.frame_chunk]), records),
        "baseline": {
            "what": NAME,
            "training_chunks": baseline_chunks,
            "chunk": {**judge.of(base, record), **judge.by_kind(base, record)},
            "pieces_of_5kb": judge.of_parts(base_in_pieces, pieces.chunk_piece, pieces.chunk_record),
            "records": judge.of_parts(base, record, record),
        },
        "curves": curves(margins, virus),
    }


def headline(report: dict[str, Any]) -> dict[str, Any]:
    """Of a report of `evaluate`, what a manifest holds: all but the longest tables."""
    short = {name: value for name, value in report.items() if name != "curves"}
    short["chunk"] = {name: report["chunk"][name] for name in MANIFEST_GROUPS}
    short["baseline"] = dict(report["baseline"])
    short["baseline"]["chunk"] = {name: report["baseline"]["chunk"][name] for name in MANIFEST_GROUPS[:2]}
    return short


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of genomes.npz")
    parser.add_argument("--bundle", default="nano", help="name or folder of the bundle")
    parser.add_argument("--split", choices=SPLITS, default=VALIDATION)
    parser.add_argument("--trained-on", nargs="+", choices=(*SPLITS, EXTRA), default=[TRAIN, DEV])
    parser.add_argument("--baseline-chunks", type=int, default=CHUNKS)
    parser.add_argument("--out", type=Path, help="file for the report; else it is printed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args(arguments)
    report = evaluate(
        Bundle.load(find_bundle(options.bundle)),
        options.data / "genomes.npz",
        options.split,
        options.trained_on,
        baseline_chunks=options.baseline_chunks,
        processes=options.processes,
        device=options.device,
        precision=options.precision,
    )
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    if options.out:
        options.out.write_text(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
