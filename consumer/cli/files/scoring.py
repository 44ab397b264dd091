"""What the commands that score a file share: the records through the model, with a progress bar, counted."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from consumer.cli.error_messages import UserError, detail
from consumer.cli.files.tally import Tally
from virnucpro_core.scoring.computing import Computing, Here, Rows
from virnucpro_core.scoring.model import EngineInfo, Preparer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from consumer.cli.files.device_use import DeviceUse
    from consumer.cli.files.inputs import Size
    from consumer.cli.progress import Meter
    from consumer.config.settings import ModelSettings
    from virnucpro_core.scoring.model import Compute
    from virnucpro_core.scoring.outcomes import Computed, LeftOut, Outcome, Record
    from virnucpro_core.scoring.results import RecordResult
    from virnucpro_core.scoring.row_journal import RowJournal
    from virnucpro_core.sequence.prepare import PreparedFrame


def max_bases_of(settings: ModelSettings) -> int:
    """Most bases of a record of a file: the service's limit holds only where VIRNUCPRO_MAX_SEQUENCE_BASES is set."""
    return settings.max_sequence_bases if "max_sequence_bases" in settings.model_fields_set else sys.maxsize


class ModelOfFiles(Preparer, Protocol):
    """What scoring a file asks of a model, or of several devices that have one."""

    @property
    def info(self) -> EngineInfo:
        """What computes."""

    @property
    def default_token_budget(self) -> int:
        """Tokens of a batch where the settings give none."""


class Counting(Computing, Protocol):
    """Computes batches of frames, and counts."""

    @property
    def uses(self) -> Sequence[DeviceUse]:
        """What each device has done so far."""


class Run:
    """Scores the records of one file with a progress bar, and counts.

    Args:
        model: the frames are prepared for it.
        computing: scores them.

    Attributes:
        tally: what became of the records so far.
        info: what computes.
        token_budget: tokens of a batch.
    """

    def __init__(self, model: ModelOfFiles, settings: ModelSettings, computing: Counting) -> None:
        self._model, self._computing, self._max_bases = model, computing, max_bases_of(settings)
        self.info = model.info
        self.token_budget = settings.fixed_token_budget or model.default_token_budget
        self._keep_u = settings.keep_u
        self._began_at = time.monotonic()
        self.tally = Tally()
        _describe(model.info, self.token_budget)

    @property
    def uses(self) -> Sequence[DeviceUse]:
        """What each device has done so far."""
        return self._computing.uses

    @property
    def reused(self) -> int:
        """Frames that were not computed, since equal ones had been."""
        return sum(use.reused for use in self.uses)

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
        from virnucpro_core.scoring.stream import outcome_of

        for done in self._done(records, size, self._computing, "scoring", journal):
            outcome = outcome_of(done)
            self.tally.add(outcome)
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
        from virnucpro_core.scoring.outcomes import LeftOut

        for computed in self._done(records, size, Here(compute), doing, None):
            if isinstance(computed, LeftOut):
                self.tally.leave_out(computed)
            else:
                self.tally.bases += computed.prepared.length
                yield computed
        self.tally.say_rna(self._keep_u)

    def with_what(self) -> str:
        """The end of the summary line: the model, where it ran, and how long it took."""
        info = self.info
        return f"with the model {info.model_id} on {info.device} ({info.precision}) in {self.seconds:.1f} s"

    def _done(
        self,
        records: Iterable[Record],
        size: Size | None,
        computing: Computing,
        doing: str,
        journal: RowJournal | None,
    ) -> Iterator[Computed | LeftOut]:
        """Each record when its frames are computed, with a progress bar.

        Raises:
            UserError: at the end, there were not so many records and letters as `size` says.
        """
        from consumer.cli.progress import record_bar
        from virnucpro_core.scoring.stream import rows_of_records

        model = self._model
        with record_bar(doing, size) as meter:
            reporting = Reporting(computing, model.expected_length, meter)
            for done in rows_of_records(
                self._counted(records),
                model,
                reporting,
                self.token_budget,
                self._max_bases,
                self._keep_u,
                journal,
            ):
                meter.add(len(done.record[2]))
                yield done
        if size is not None and (self.tally.read, self.tally.bases_read) != (size.records, size.bases):
            raise UserError(
                f"the input has changed since it was read through: it had {size.records:,} records with {size.bases:,} "
                f"letters, and then {self.tally.read:,} with {self.tally.bases_read:,}; run the command again when "
                "nothing writes to it"
            )

    def _counted(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            self.tally.read_one(record)
            yield record


@dataclass(frozen=True, slots=True)
class Reporting:
    """The same computation; after each batch the progress bar shows the position within its last record."""

    computing: Computing
    chunk_size: int
    meter: Meter

    @property
    def ahead(self) -> int:
        return self.computing.ahead

    def begin(self, frames: Sequence[PreparedFrame]) -> Rows:
        rows = self.computing.begin(frames)

        def rows_and_report() -> NDArray[np.float32]:
            found = rows()
            self.meter.within(frames[-1].chunk * self.chunk_size)
            return found

        return rows_and_report


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
    if info.graphs is not None:
        detail(f"CUDA graphs: {info.graphs}")
    if info.self_test is not None:
        detail(
            f"self-test passed: {info.self_test.pooled:.1e} pooled, {info.self_test.tolerance:.0e} allowed"
        )
    detail(f"token budget of a batch: {token_budget:,}")
