"""What cross-validation says of a recipe: figures of each fold, which was judged by a model that had not seen it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.corpus import EXTRA, VIRUS, Corpus
from training.data.folds import Folds
from training.data.frame_table import Frames
from training.data.prepare_data import NOT_A_FAMILY
from virnucpro_core.evaluation.metrics import BoolArray, FloatArray, IntArray, auroc, temperature
from virnucpro_core.scoring.verdicts import verdict_margins

MOST_PIECES = 12
"""Chunks of a record that are judged at most, or a few long genomes would decide."""
MEASURES = ("auroc", "unseen_families", "without_extra")


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """A fold: the table of its chunks, and the margins of the table's frames, float [frames]."""

    fold: int
    table: Frames
    margins: FloatArray

    @property
    def chunk_margins(self) -> FloatArray:
        """The margin of each chunk, by VirNucPro's rule, float [chunks]."""
        return verdict_margins(self.margins, self.table.frame_chunk)


def spread_out(record: IntArray, most: int = MOST_PIECES) -> BoolArray:
    """Of the chunks of each record at most `most`, evenly spaced, bool [chunks]; record int [chunks], sorted."""
    _, first, counts = np.unique(record, return_index=True, return_counts=True)
    place = np.arange(len(record)) - np.repeat(first, counts)
    total = np.repeat(counts, counts)
    taken: BoolArray = (total <= most) | ((place + 1) * most // total > place * most // total)
    return taken


def judge(left_out: Sequence[LeftOut], corpus: Corpus, folds: Folds) -> dict[str, Any]:
    """The figures of a recipe, of at most MOST_PIECES chunks with an open frame a record.

    Returns:
        auroc: of viruses against others; unseen_families: of viruses whose family is known, and so not trained on,
        against others; without_extra: as auroc, without the extra sources. Each has `mean`, `spread` (the standard
        deviation over the folds) and `folds`. right: the share of pieces on the right side of the default threshold,
        all folds together, of each non-viral group, of all viruses, and of each realm; with numbers of `pieces` and
        `records`. temperature: what makes probabilities of the margins.

    Raises:
        ValueError: a fold has no open frame of a virus, or none of others.
    """
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    margins, records = [], []
    family_known = (corpus.labels == VIRUS) & ~np.isin(corpus.groups, NOT_A_FAMILY)
    for one in left_out:
        taken = spread_out(one.table.chunk_record)
        margin, record = one.chunk_margins[taken], one.table.chunk_record[taken]
        virus = corpus.labels[record] == VIRUS
        for name, chosen in (
            ("auroc", np.ones(len(record), dtype=bool)),
            ("unseen_families", ~virus | family_known[record]),
            ("without_extra", corpus.splits[record] != EXTRA),
        ):
            value = auroc(margin[chosen], virus[chosen])
            if math.isnan(value):
                raise ValueError(
                    f"fold {one.fold} has no open frames of viruses or none of others, for {name}"
                )
            found[name].append(round(value, 4))
        margins.append(margin)
        records.append(record)
    margin, record = np.concatenate(margins), np.concatenate(records)
    return {
        **{name: _summary(values) for name, values in found.items()},
        "right": _right(margin, record, corpus, folds.realms(corpus)),
        "temperature": temperature(margin, corpus.labels[record] == VIRUS),
    }


def _summary(values: list[float]) -> dict[str, Any]:
    return {
        "mean": round(statistics.mean(values), 4),
        "spread": round(statistics.stdev(values), 4),
        "folds": values,
    }


def _right(
    margin: FloatArray, record: IntArray, corpus: Corpus, realms: npt.NDArray[np.str_]
) -> dict[str, dict[str, Any]]:
    virus = corpus.labels[record] == VIRUS
    right = (margin >= 0) == virus
    kinds = {
        name: ~virus & (corpus.groups[record] == name) for name in np.unique(corpus.groups[record[~virus]])
    }
    kinds["viruses"] = virus
    kinds |= {name: virus & (realms[record] == name) for name in np.unique(realms[record[virus]]) if name}
    return {
        str(name): {
            "share": round(float(right[members].mean()), 4),
            "pieces": int(members.sum()),
            "records": len(np.unique(record[members])),
        }
        for name, members in kinds.items()
    }
