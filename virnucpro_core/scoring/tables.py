"""Reports with a row a record: the table, JSON lines, and the table of the contig rule."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TextIO

from virnucpro_core.scoring.calibration import Probability
from virnucpro_core.scoring.contig_call import contig_call
from virnucpro_core.scoring.contig_rule import CALL_FIELDS, ContigCall, ContigRule
from virnucpro_core.scoring.decimals import as_printed_or_none, float32_text
from virnucpro_core.scoring.outcomes import LeftOut, Outcome
from virnucpro_core.scoring.results import RecordResult
from virnucpro_core.scoring.unique_names import unique_names

RECORD_COLUMNS = (
    *("id", "length", "verdict", "virus_score", "others_score", "chunks", "virus_chunks", "frames"),
    *CALL_FIELDS,
)
PROBABILITY_COLUMN = "probability"
"""The last column of a table of records, if the model has a calibration."""
CONTIG_COLUMNS = ("ID", *CALL_FIELDS)
_DIGITS = 3
"""Decimals of weighted_delta and of the proportions in tables."""
_COLUMN_BREAKS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NUMBERS = re.compile("([0-9]+)")


def write_row(stream: TextIO, *cells: object) -> None:
    """A row of a table separated by tabs; cells are not quoted, and must hold neither tabs nor line ends."""
    stream.write("\t".join(map(str, cells)) + "\n")


def one_cell(text: str) -> str:
    """A text that moves no column. It is not quoted, which would change ids with quotation marks."""
    return text.translate(_COLUMN_BREAKS)


class RecordTable:
    """A header, then a row for each record that is scored, in order; ids as they are."""

    def __init__(self, stream: TextIO, rule: ContigRule, probability: Probability | None = None) -> None:
        self._stream, self._rule, self._probability = stream, rule, probability
        write_row(stream, *RECORD_COLUMNS, *([PROBABILITY_COLUMN] if probability else []))

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome, LeftOut):
            return
        result = outcome.result
        write_row(
            self._stream,
            one_cell(result.record_id),
            result.length,
            result.verdict,
            float32_text(result.virus_score),
            float32_text(result.others_score),
            len(result.chunks),
            sum(chunk.verdict == "virus" for chunk in result.chunks),
            sum(len(chunk.frames) for chunk in result.chunks),
            *_cells(contig_call(result, self._rule)),
            *([_probability_text(self._probability(result))] if self._probability else []),
        )

    def finish(self) -> None:
        """Every row was written."""


class JsonLines:
    """The whole result of each record that is scored, with the call and what made it, as a JSON object a line."""

    def __init__(
        self,
        stream: TextIO,
        rule: ContigRule,
        provenance: Mapping[str, Any],
        probability: Probability | None = None,
    ) -> None:
        self._stream, self._rule, self._probability = stream, rule, probability
        self._provenance = {"provenance": dict(provenance)} if provenance else {}

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome, LeftOut):
            return
        call = contig_call(outcome.result, self._rule)
        called = call.as_dict() if call else dict.fromkeys(CALL_FIELDS)
        line = _as_json(outcome.result) | self._provenance | called
        if self._probability:
            line[PROBABILITY_COLUMN] = self._probability(outcome.result)
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Every line was written."""


class ContigTable:
    """The call on each record that has a score, sorted by natural order of the id: `NODE_2` before `NODE_10`.

    Records of one id are told apart. It is written at the end; until then a few numbers of each record are kept.
    """

    def __init__(self, stream: TextIO, rule: ContigRule) -> None:
        self._stream, self._rule = stream, rule
        self._ids: list[str] = []
        self._calls: list[ContigCall | None] = []

    def add(self, outcome: Outcome) -> None:
        if not isinstance(outcome, LeftOut):
            self._ids.append(outcome.result.record_id)
            self._calls.append(contig_call(outcome.result, self._rule))

    def finish(self) -> None:
        write_row(self._stream, *CONTIG_COLUMNS)
        named = zip(unique_names(self._ids), self._calls, strict=True)
        for name, call in sorted(named, key=lambda row: _natural(row[0])):
            if call is not None:
                write_row(self._stream, one_cell(name), *_cells(call))


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sorts numbers in a name by their value; the name itself decides between `a1` and `a01`."""
    parts: list[str | int] = list(_NUMBERS.split(name))
    parts[1::2] = [int(number) for number in _NUMBERS.findall(name)]
    return parts, name


def _cells(call: ContigCall | None) -> list[object]:
    """A call as cells of a table; empty without a score."""
    values = call.as_dict().values() if call else [""] * len(CALL_FIELDS)
    return [round(value, _DIGITS) if isinstance(value, float) else value for value in values]


def _probability_text(probability: float | None) -> str:
    """Six digits, so that a difference from 1 can be read; empty without a score."""
    return "" if probability is None else f"{probability:.6g}"


def _as_json(result: RecordResult) -> dict[str, Any]:
    return {
        "id": result.record_id,
        "length": result.length,
        "verdict": result.verdict,
        "virus_score": as_printed_or_none(result.virus_score),
        "others_score": as_printed_or_none(result.others_score),
        "chunks": [
            {
                "name": chunk.name,
                "start": chunk.start,
                "end": chunk.end,
                "verdict": chunk.verdict,
                "frames": [
                    {
                        "frame": frame.label,
                        "others": as_printed_or_none(frame.others),
                        "virus": as_printed_or_none(frame.virus),
                    }
                    for frame in chunk.frames
                ],
            }
            for chunk in result.chunks
        ],
    }
