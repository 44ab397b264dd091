"""The two files of the original VirNucPro: the scores of each frame, and the highest ones of each chunk.

The original's file of highest scores has two columns. Programs that read it (those of the Broad Institute's fork) want
the two scores beside the verdict, and group chunks by record id; in that form records of one id are told apart. In the
original's own form chunks of one name are one row, as there.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from typing import TextIO

from virnucpro_core.scoring.decimals import float32_text
from virnucpro_core.scoring.outcomes import LeftOut, Outcome
from virnucpro_core.scoring.unique_names import unique_names
from virnucpro_core.scoring.verdicts import is_virus
from virnucpro_core.sequence.chunks import chunk_name
from virnucpro_core.sequence.frames import FRAME_LABELS

FRAMES_FILE = "prediction_results.txt"
CHUNKS_FILE = "prediction_results_highestscore.csv"
FRAME_COLUMNS = ("Sequence_ID", "Prediction", "score1", "score2")
CHUNK_COLUMNS = ("Modified_ID", "Is_Virus", "max_score_0", "max_score_1")
ORIGINAL_CHUNK_COLUMNS = CHUNK_COLUMNS[:2]


class OriginalFiles:
    """Writes both files at the end; until then 20 bytes of each frame are kept.

    Args:
        frames, chunks: the two files.
        with_scores: the four columns for other programs; else the original's two.
    """

    def __init__(self, frames: TextIO, chunks: TextIO, with_scores: bool) -> None:
        self._frames, self._chunks, self._with_scores = frames, chunks, with_scores
        self._ids: list[str] = []
        # Of each frame: its record and chunk, from 0, its label, and its scores, which are float32.
        self._records, self._numbers, self._labels = array("q"), array("I"), array("B")
        self._others, self._virus = array("f"), array("f")

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome, LeftOut):
            return
        record = len(self._ids)
        self._ids.append(outcome.result.record_id)
        for number, chunk in enumerate(outcome.result.chunks):
            for frame in chunk.frames:
                self._records.append(record)
                self._numbers.append(number)
                self._labels.append(FRAME_LABELS.index(frame.label))
                self._others.append(frame.others)
                self._virus.append(frame.virus)

    def finish(self) -> None:
        names = list(unique_names(self._ids)) if self._with_scores else self._ids
        highest: dict[str, tuple[float, float]] = {}
        self._frames.write("\t".join(FRAME_COLUMNS) + "\n")
        for chunk, label, others, virus in self._rows(names):
            # A frame's own call is the first of the highest scores, so a tie is "others" here ...
            prediction = "virus" if virus > others else "others"
            scores = f"{float32_text(others)}\t{float32_text(virus)}"
            self._frames.write(f"{chunk}{label}\t{prediction}\t{scores}\n")
            most_others, most_virus = highest.get(chunk, (others, virus))
            highest[chunk] = max(most_others, others), max(most_virus, virus)
        rows = csv.writer(self._chunks, delimiter="\t", lineterminator="\n")
        rows.writerow(CHUNK_COLUMNS if self._with_scores else ORIGINAL_CHUNK_COLUMNS)
        for chunk in sorted(highest):  # as pandas' groupby leaves them
            others, virus = highest[chunk]
            # ... and "virus" for a chunk.
            row = chunk, is_virus(others, virus), float32_text(others), float32_text(virus)
            rows.writerow(row if self._with_scores else row[:2])

    def _rows(self, names: list[str]) -> Iterator[tuple[str, str, float, float]]:
        """Each frame: the name of its chunk, its label, its others and its virus score."""
        for record, number, label, others, virus in zip(
            self._records, self._numbers, self._labels, self._others, self._virus, strict=True
        ):
            yield chunk_name(names[record], number), FRAME_LABELS[label], others, virus
