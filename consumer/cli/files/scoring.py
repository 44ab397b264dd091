"""What the commands that score a file share: the records through the model, with a progress bar, counted."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consumer.cli.error_messages import detail
from consumer.cli.files.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from consumer.cli.files.inputs import Size
    from consumer.cli.progress import Meter
    from consumer.config.settings import ModelSettings
    from virnucpro_core.models.engine import Engine
    from virnucpro_core.scoring.model import Compute, EngineInfo
    from virnucpro_core.scoring.outcomes import Computed, Outcome, Record
    from virnucpro_core.scoring.results import RecordResult
    from virnucpro_core.scoring.row_journal import RowJournal
    from virnucpro_core.sequence.prepare import PreparedFrame
    from virnucpro_core.sequence.tokens import DnaTokenizer


def max_bases_of(settings: ModelSettings) -> int:
    """Most bases of a record of a file: the service's limit holds only where VIRNUCPRO_MAX_SEQUENCE_BASES is set."""
    return settings.max_sequence_bases if "max_sequence_bases" in settings.model_fields_set else sys.maxsize


class Run:
    """Scores the records of one file with a progress bar, and counts.

    Attributes:
        tally: what became of the records so far.
        info: what computes.
        reused: frames that were not computed, since equal ones had been.
        token_budget: tokens of a batch.
    """

    def __init__(self, engine: Engine, settings: ModelSettings) -> None:
        self._engine, self._max_bases = engine, max_bases_of(settings)
        self.info: EngineInfo = engine.info
        self.token_budget = settings.token_budget or engine.default_token_budget
        self._keep_u, self._frame_cache = settings.keep_u, settings.frame_cache
        self.reused = 0
        self._began_at = time.monotonic()
        self.tally = Tally()
        _describe(engine.info, self.token_budget)

    @property
    def seconds(self) -> float:
        """Since the run began; loading the model is not part of it."""
        return time.monotonic() - self._began_at

    def outcomes(
        self, records: Iterable[Record], size: Size | None, journal: RowJournal | None = None
    ) -> Iterator[Outcome]:
        """What became of each record, in their order.

        Args:
            size: the total for the progress bar, None if unknown.
            journal: as of `virnucpro_core.scoring.stream.rows_of_records`.
        """
        from consumer.cli.progress import record_bar
        from virnucpro_core.scoring.frame_cache import with_cache
        from virnucpro_core.scoring.stream import score_records

        engine = self._engine
        scorer = with_cache(engine, engine.info, self._frame_cache, self._count_reused)
        with record_bar("scoring", size) as done:
            score = reporting(scorer.score, engine.expected_length, done)
            for outcome in score_records(
                self._counted(records),
                _ReportingScorer(engine.expected_length, engine.tokenizer, score),
                self.token_budget,
                self._max_bases,
                self._keep_u,
                journal,
            ):
                self.tally.add(outcome)
                done.add(len(outcome.record[2]))
                yield outcome
        self.tally.say_rna(self._keep_u)

    def results(self, records: Iterable[Record], size: Size | None) -> Iterator[RecordResult]:
        """The results of those records that have one; arguments as of `outcomes`."""
        from virnucpro_core.scoring.outcomes import ScoredRecord

        for outcome in self.outcomes(records, size):
            if isinstance(outcome, ScoredRecord):
                yield outcome.result

    def rows(
        self, records: Iterable[Record], size: Size | None, compute: Compute, doing: str
    ) -> Iterator[Computed]:
        """The records that can be computed, in their order, with a row of `compute` for each of their frames.

        Args:
            size: the total for the progress bar, None if unknown.
            doing: what the progress bar says.
        """
        from consumer.cli.progress import record_bar
        from virnucpro_core.scoring.outcomes import LeftOut
        from virnucpro_core.scoring.stream import rows_of_records

        engine = self._engine
        with record_bar(doing, size) as done:
            for computed in rows_of_records(
                self._counted(records),
                engine,
                reporting(compute, engine.expected_length, done),
                self.token_budget,
                self._max_bases,
                self._keep_u,
            ):
                done.add(len(computed.record[2]))
                if isinstance(computed, LeftOut):
                    self.tally.leave_out(computed)
                else:
                    self.tally.bases += computed.prepared.length
                    yield computed
        self.tally.say_rna(self._keep_u)

    def with_what(self) -> str:
        """The end of the summary line: the model, where it ran, and how long it took."""
        info = self._engine.info
        return f"with the model {info.model_id} on {info.device} ({info.precision}) in {self.seconds:.1f} s"

    def _count_reused(self, frames: int) -> None:
        self.reused += frames

    def _counted(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            self.tally.read_one(record)
            yield record


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


def _describe(info: EngineInfo, token_budget: int) -> None:
    """For --verbose: what computes, and why nothing else does."""
    detail(
        f"model {info.model_id}, {info.expected_length} bases a chunk, manifest sha256 {info.model_sha256}"
    )
    detail(
        f"device {info.device}, precision {info.precision}, attention {info.attention}: ESM-2 by "
        f"{info.attention_backend}, DNABERT-S by {info.dna_attention_backend}, kernels {info.kernels}"
    )
    for name, why in info.refusals.items():
        detail(f"not used: {name}: {why}")
    if info.self_test is not None:
        detail(
            f"self-test passed: {info.self_test.per_token:.1e} a token, {info.self_test.tolerance:.0e} allowed"
        )
    detail(f"token budget of a batch: {token_budget:,}")
