"""The file of the scores that cross-validation gave to records: written by it, read for what is fitted or shown.

A line of JSON for each record with an open frame: id, label, group, unit (the family or genus that it is in the folds
by: those of one unit are alike), fold, length in bases, and scores: for each of its chunks the highest others and virus
scores of the frames, or null where none is open. They are of a model that had not seen the record's family or genus,
with margins divided by the recipe's temperature.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.corpus import Corpus
from training.data.folds import key_of
from training.reports.fold_metrics import LeftOut, spread_out
from virnucpro_core.atomic_files import atomic_write
from virnucpro_core.evaluation.labelled_chunks import LabelledChunks
from virnucpro_core.evaluation.labels import LABELS
from virnucpro_core.evaluation.metrics import BoolArray, FloatArray, IntArray, binary_metrics, sigmoid
from virnucpro_core.scoring.verdicts import CLASSES, VIRUS
from virnucpro_core.sequence.chunks import chunk_spans

_DIGITS = 9  # of a score: so near to 1 as a margin of 20
_LEAST = 0.5 * 10.0**-_DIGITS


@dataclass(frozen=True, slots=True, eq=False)
class RecordScores:
    """Records, and their chunks with an open frame.

    Attributes:
        ids, groups, units: str [records].
        is_virus: bool [records].
        folds: int [records].
        bases: int [records].
        chunks: int [records], with those that have no open frame.
        owner: int [scored chunks], the record of each, ascending.
        number: int [scored chunks], which chunk of its record, from 0.
        scores: float [scored chunks, 2], the highest others and virus score of the frames.
    """

    ids: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    units: npt.NDArray[np.str_]
    is_virus: BoolArray
    folds: IntArray
    bases: IntArray
    chunks: IntArray
    owner: IntArray
    number: IntArray
    scores: FloatArray

    @property
    def margins(self) -> FloatArray:
        """The margin behind the verdict on each chunk, as `virnucpro_core.scoring.margins`; float [scored chunks]."""
        return margin_of_scores(*self.scores.T)

    def metrics(self) -> dict[str, Any]:
        """Metrics of what `predict` prints: `chunk`, at most `MOST_PIECES` a record, and `records_by_verdict_rule`, by
        the surest of all frames. Intervals come from drawing units: families and genera."""
        margins, chosen = self.margins, spread_out(self.owner)
        _, unit = np.unique(self.units, return_inverse=True)
        record = self.owner[chosen]
        of_chunks = binary_metrics(margins[chosen], self.is_virus[record], unit[record])
        first = np.searchsorted(self.owner, np.arange(len(self.ids)))
        others, virus = np.maximum.reduceat(self.scores, first).T
        of_records = binary_metrics(margin_of_scores(others, virus), self.is_virus, unit)
        return {"chunk": of_chunks, "records_by_verdict_rule": of_records}

    def labelled(self, expected_length: int) -> LabelledChunks:
        """What a calibration is fitted on; expected_length: bases of a chunk."""
        _, unit = np.unique(self.units, return_inverse=True)
        return LabelledChunks(self.margins, self.owner, self.number, self.is_virus, unit, expected_length)

    def part(self, chosen: BoolArray) -> RecordScores:
        """Some of the records, and their chunks; chosen bool [records]."""
        chunks = chosen[self.owner]
        place = np.cumsum(chosen) - 1
        return RecordScores(
            self.ids[chosen],
            self.groups[chosen],
            self.units[chosen],
            self.is_virus[chosen],
            self.folds[chosen],
            self.bases[chosen],
            self.chunks[chosen],
            place[self.owner[chunks]],
            self.number[chunks],
            self.scores[chunks],
        )


def margin_of_scores(others: FloatArray, virus: FloatArray) -> FloatArray:
    """The margin behind the verdict on what has these highest scores, as `virnucpro_core.scoring.margins`; all [n]."""
    of_others, of_virus = (np.log(s) - np.log1p(-s) for s in np.clip((others, virus), _LEAST, 1 - _LEAST))
    margins: FloatArray = (of_virus - of_others) / 2
    return margins


def write_scores(
    path: Path, left_out: Iterable[LeftOut], corpus: Corpus, length: int, temperature: float
) -> None:
    """Write the scores of the records of all folds.

    length: bases of a chunk; temperature: what margins are divided by.
    """
    with atomic_write(path) as (unfinished,), unfinished.open("w", encoding="utf-8") as file:
        for one in left_out:
            table, scaled = one.table, one.margins.astype(np.float64) / temperature
            first = np.searchsorted(table.frame_chunk, np.arange(len(table.chunk_record)))
            virus = sigmoid(np.maximum.reduceat(scaled, first))
            others = sigmoid(-np.minimum.reduceat(scaled, first))
            for record in np.unique(table.chunk_record).tolist():
                chunks = slice(*np.searchsorted(table.chunk_record, (record, record + 1)))
                of_start = {
                    int(start): [round(float(o), _DIGITS), round(float(v), _DIGITS)]
                    for (start, _), o, v in zip(
                        table.chunk_span[chunks], others[chunks], virus[chunks], strict=True
                    )
                }
                bases = int(corpus.lengths[record])
                line = _described(corpus, record) | {
                    "fold": one.fold,
                    "length": bases,
                    "scores": [of_start.get(start) for start, _ in chunk_spans(bases, length)],
                }
                file.write(json.dumps(line, allow_nan=False) + "\n")


def read_scores(path: Path) -> RecordScores:
    """Read what `write_scores` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is not as it should be; the message names it.
    """
    rows: list[dict[str, Any]] = []
    owner, number, scores = array("q"), array("q"), array("d")
    with path.open(encoding="utf-8") as file:
        for line_number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                pairs = row.pop("scores")
                for place, pair in enumerate(pairs):
                    if pair is not None:
                        others, virus = pair
                        scores.extend((others, virus))
                        owner.append(len(rows))
                        number.append(place)
                rows.append(row | {"chunks": len(pairs), "is_virus": LABELS.index(row["label"]) == VIRUS})
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {line_number} is not the scores of a record ({error})"
                ) from error

    def column(name: str) -> npt.NDArray[Any]:
        return np.array([row[name] for row in rows])

    return RecordScores(
        column("id"),
        column("group"),
        column("unit"),
        column("is_virus"),
        column("fold"),
        column("length"),
        column("chunks"),
        np.array(owner),
        np.array(number),
        np.array(scores).reshape(-1, len(CLASSES)),
    )


def _described(corpus: Corpus, record: int) -> dict[str, Any]:
    label, group = LABELS[corpus.labels[record]], str(corpus.groups[record])
    key = key_of(label, group, str(corpus.genera[record]))
    assert key is not None  # it is in a fold
    return {"id": str(corpus.ids[record]), "label": label, "group": group, "unit": " ".join(key)}
