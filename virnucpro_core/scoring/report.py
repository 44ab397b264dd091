"""Write results: a table, JSON lines, or the two files of the original VirNucPro.

A file appears under its name only when it is complete: it is written beside it and renamed at the end.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

import numpy as np

from virnucpro_core.atomic_files import atomic_write
from virnucpro_core.new_folder import new_folder
from virnucpro_core.scoring.results import RecordResult
from virnucpro_core.scoring.verdicts import is_virus

Format = Literal["tsv", "jsonl", "virnucpro"]
FORMATS: tuple[Format, ...] = get_args(Format)

TSV_COLUMNS = ("id", "length", "verdict", "virus_score", "others_score", "chunks", "virus_chunks", "frames")
_COLUMN_BREAKS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})
FRAMES_FILE = "prediction_results.txt"
CHUNKS_FILE = "prediction_results_highestscore.csv"

Write = Callable[[RecordResult], None]
"""Adds one record to the report."""


@contextmanager
def report(form: Format, target: Path | TextIO) -> Iterator[Write]:
    """Open a report; gives the function that adds a record to it.

    Args:
        form: `tsv`: a header, then a row a record, ids as they are. `jsonl`: a JSON object a line, the whole
            result, with the field names of the service's predictions. `virnucpro`: the original's two files.
        target: for `tsv` and `jsonl` a file to be (re)written or a stream; for `virnucpro` a folder, made
            if it is missing. A file takes its name when the block ends; if the block raises, nothing is left
            behind, and what was there before stays.

    Raises:
        ValueError: `virnucpro` was asked for on a stream.
        OSError: the target cannot be written.
    """
    with ExitStack() as stack:
        if form == "virnucpro":
            if not isinstance(target, Path):
                raise ValueError("the virnucpro format is two files: give a folder to write them to")
            stack.enter_context(new_folder(target))
            frames, chunks = stack.enter_context(_complete_files(target / FRAMES_FILE, target / CHUNKS_FILE))
            yield stack.enter_context(_virnucpro(frames, chunks))
        else:
            stream = target
            if isinstance(stream, Path):
                (stream,) = stack.enter_context(_complete_files(stream))
            yield _tsv(stream) if form == "tsv" else _jsonl(stream)


def float32_text(score: float | None) -> str:
    """The shortest decimal that reads back as the same float32; empty for None."""
    return "" if score is None else str(np.float32(score))


def _tsv(stream: TextIO) -> Write:
    def row(*cells: object) -> None:
        stream.write("\t".join(map(str, cells)) + "\n")

    def write(result: RecordResult) -> None:
        row(
            # Not quoted: that would change ids with quotation marks. Ids from sequence files have no blanks.
            result.record_id.translate(_COLUMN_BREAKS),
            result.length,
            result.verdict,
            float32_text(result.virus_score),
            float32_text(result.others_score),
            len(result.chunks),
            sum(chunk.verdict == "virus" for chunk in result.chunks),
            sum(len(chunk.frames) for chunk in result.chunks),
        )

    row(*TSV_COLUMNS)
    return write


def _jsonl(stream: TextIO) -> Write:
    def write(result: RecordResult) -> None:
        stream.write(json.dumps(_as_json(result), ensure_ascii=False) + "\n")

    return write


def _as_json(result: RecordResult) -> dict[str, Any]:
    return {
        "id": result.record_id,
        "length": result.length,
        "verdict": result.verdict,
        "virus_score": _short(result.virus_score),
        "others_score": _short(result.others_score),
        "chunks": [
            {
                "name": chunk.name,
                "start": chunk.start,
                "end": chunk.end,
                "verdict": chunk.verdict,
                "frames": [
                    {"frame": frame.label, "others": _short(frame.others), "virus": _short(frame.virus)}
                    for frame in chunk.frames
                ],
            }
            for chunk in result.chunks
        ],
    }


def _short(score: float | None) -> float | None:
    """The float64 that prints with the float32's few digits."""
    return None if score is None else float(float32_text(score))


@contextmanager
def _virnucpro(frames: TextIO, chunks: TextIO) -> Iterator[Write]:
    """The original's files: each frame with its scores as they come, and at the end each chunk's verdict."""
    highest: dict[str, tuple[float, float]] = {}
    frames.write("Sequence_ID\tPrediction\tscore1\tscore2\n")

    def write(result: RecordResult) -> None:
        for chunk in result.chunks:
            for frame in chunk.frames:
                # A frame's own call is the first of the highest scores, so a tie is "others" here ...
                prediction = "virus" if frame.virus > frame.others else "others"
                scores = f"{float32_text(frame.others)}\t{float32_text(frame.virus)}"
                frames.write(f"{chunk.name}{frame.label}\t{prediction}\t{scores}\n")
                others, virus = highest.get(chunk.name, (frame.others, frame.virus))
                highest[chunk.name] = max(others, frame.others), max(virus, frame.virus)

    yield write
    rows = csv.writer(chunks, delimiter="\t", lineterminator="\n")
    rows.writerow(("Modified_ID", "Is_Virus"))
    for name in sorted(highest):  # as pandas' groupby leaves them
        others, virus = highest[name]
        rows.writerow((name, is_virus(others, virus)))  # ... and "virus" for a chunk


@contextmanager
def _complete_files(*paths: Path) -> Iterator[tuple[TextIO, ...]]:
    """Open files that take their names when the block ends well."""
    with atomic_write(*paths) as written, ExitStack() as stack:
        yield tuple(stack.enter_context(draft.open("w", encoding="utf-8", newline="")) for draft in written)
