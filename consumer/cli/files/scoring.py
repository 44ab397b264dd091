"""What the commands that score a file share: scoring and counting."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from consumer.cli.files.inputs import Record, Size
    from consumer.cli.progress import Meter
    from consumer.config.settings import ModelSettings
    from virnucpro_core.models.engine import Engine
    from virnucpro_core.scoring.model import Compute
    from virnucpro_core.scoring.results import RecordResult
    from virnucpro_core.scoring.robust import Failure
    from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord
    from virnucpro_core.sequence.tokens import DnaTokenizer
    from virnucpro_core.sequence.validation import InvalidSequence


def max_bases_of(settings: ModelSettings) -> int:
    """Most bases of a record of a file: the service's limit holds only where VIRNUCPRO_MAX_SEQUENCE_BASES is set."""
    return settings.max_sequence_bases if "max_sequence_bases" in settings.model_fields_set else sys.maxsize


class Run:
    """Scores the records of one file with a progress bar, and counts.

    Attributes:
        scored, bases, viral: records that were scored, their bases, and those whose verdict is virus.
        refused: records that cannot be scored; each was named on stderr.
    """

    def __init__(self, engine: Engine, settings: ModelSettings) -> None:
        self._engine, self._max_bases = engine, max_bases_of(settings)
        self._token_budget = settings.token_budget or engine.default_token_budget
        self._keep_u = settings.keep_u
        self._began_at = time.monotonic()
        self._with_u = 0
        self.scored = self.viral = self.bases = self.refused = 0

    def results(self, records: Iterable[Record], size: Size | None) -> Iterator[RecordResult]:
        """The results in the order of the records; `size` is the total for the progress bar, None if unknown."""
        from consumer.cli.progress import record_bar
        from virnucpro_core.scoring.stream import score_records

        engine = self._engine
        with record_bar("scoring", size) as done:
            score = reporting(engine.score, engine.expected_length, done)
            for result in score_records(
                self._counting_u(records),
                _ReportingScorer(engine.expected_length, engine.tokenizer, score),
                self._token_budget,
                self._max_bases,
                self._leave_out,
                self._keep_u,
            ):
                self.scored += 1
                self.bases += result.length
                self.viral += result.verdict == "virus"
                done.add(result.length)
                yield result
        self._tell_u()

    def rows(
        self, records: Iterable[Record], size: Size | None, compute: Compute, doing: str
    ) -> Iterator[tuple[PreparedRecord, list[NDArray[np.float32]]]]:
        """The records in their order, each with a row of `compute` for each of its frames.

        Args:
            size: the total for the progress bar, None if unknown.
            doing: what the progress bar says.
        """
        from consumer.cli.progress import record_bar
        from virnucpro_core.scoring.stream import rows_of_records

        engine = self._engine
        with record_bar(doing, size) as done:
            computed = rows_of_records(
                self._counting_u(records),
                engine,
                reporting(compute, engine.expected_length, done),
                self._token_budget,
                self._max_bases,
                self._leave_out,
                self._keep_u,
            )
            for record, rows in computed:
                self.bases += record.length
                done.add(record.length)
                yield record, rows
        self._tell_u()

    def with_what(self) -> str:
        """The end of the summary line: the model, where it ran, and how long it took."""
        info, seconds = self._engine.info, time.monotonic() - self._began_at
        return f"with the model {info.model_id} on {info.device} ({info.precision}) in {seconds:.1f} s"

    def complain(self) -> None:
        """Raise UserError if records were left out, for the exit code."""
        from consumer.cli.error_messages import UserError

        if self.refused:
            raise UserError(f"{self.refused} records were left out (named above); correct or remove them")

    def _counting_u(self, records: Iterable[Record]) -> Iterator[Record]:
        from virnucpro_core.sequence.rna import holds_u

        for record in records:
            self._with_u += holds_u(record[2])
            yield record

    def _tell_u(self) -> None:
        """Say once a file that it is RNA, and what was made of that."""
        from consumer.cli.error_messages import warn

        if self._with_u:
            what = "record holds" if self._with_u == 1 else "records hold"
            how = (
                "every codon with a U was dropped, as VirNucPro does (VIRNUCPRO_KEEP_U or --keep-u)"
                if self._keep_u
                else "U was read as T (--keep-u drops codons with U, as VirNucPro does)"
            )
            warn(f"{self._with_u:,} {what} U, RNA: {how}")

    def _leave_out(self, record_id: str, why: InvalidSequence | Failure) -> None:
        from consumer.cli.error_messages import warn
        from virnucpro_core.sequence.validation import InvalidSequence

        self.refused += 1
        cure = ""
        if isinstance(why, InvalidSequence):
            if why.kind == "sequence_too_long":
                cure = "; VIRNUCPRO_MAX_SEQUENCE_BASES raises it"
        elif why.kind == "out_of_memory":
            cure = "; free memory of the device, or take another with --device"
        warn(f"record {record_id!r} is left out: {why.detail}{cure}")


def reporting(compute: Compute, chunk_size: int, done: Meter) -> Compute:
    """The same computation of a batch, which then updates the progress bar with the position within the last record."""

    def compute_and_report(frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        rows = compute(frames)
        done.within(frames[-1].chunk * chunk_size)
        return rows

    return compute_and_report


@dataclass(frozen=True, slots=True)
class _ReportingScorer:
    """What `score_records` needs of an engine, with another `score`."""

    expected_length: int
    tokenizer: DnaTokenizer
    score: Compute
