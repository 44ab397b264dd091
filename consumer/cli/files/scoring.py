"""What the commands that score a file share: scoring and counting."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from consumer.cli.files.inputs import Record, Size
    from consumer.config.settings import ModelSettings
    from virnucpro_core.models.engine import Engine
    from virnucpro_core.scoring.model import Compute
    from virnucpro_core.scoring.results import RecordResult
    from virnucpro_core.scoring.robust import Failure
    from virnucpro_core.sequence.prepare import PreparedRecord
    from virnucpro_core.sequence.validation import InvalidSequence


class Run:
    """Scores the records of one file with a progress bar, and counts.

    Attributes:
        scored, bases, viral: records that were scored, their bases, and those whose verdict is virus.
        refused: records that cannot be scored; each was named on stderr.
    """

    def __init__(self, engine: Engine, settings: ModelSettings) -> None:
        self._engine, self._max_bases = engine, settings.max_sequence_bases
        self._token_budget = settings.token_budget or engine.default_token_budget
        self._began_at = time.monotonic()
        self.scored = self.viral = self.bases = self.refused = 0

    def results(self, records: Iterable[Record], size: Size | None) -> Iterator[RecordResult]:
        """The results in the order of the records; `size` is what the progress bar is told, None if unknown."""
        from consumer.cli.progress import record_bar
        from virnucpro_core.scoring.stream import score_records

        with record_bar("scoring", size) as done:
            for result in score_records(
                records, self._engine, self._token_budget, self._max_bases, self._leave_out
            ):
                self.scored += 1
                self.bases += result.length
                self.viral += result.verdict == "virus"
                done.add(result.length)
                yield result

    def rows(
        self, records: Iterable[Record], size: Size | None, compute: Compute, doing: str
    ) -> Iterator[tuple[PreparedRecord, list[NDArray[np.float32]]]]:
        """The records in their order, each with a row of `compute` for each of its frames.

        Args:
            size: what the progress bar is told, None if unknown.
            doing: what the progress bar says.
        """
        from consumer.cli.progress import record_bar
        from virnucpro_core.scoring.stream import rows_of_records

        computed = rows_of_records(
            records, self._engine, compute, self._token_budget, self._max_bases, self._leave_out
        )
        with record_bar(doing, size) as done:
            for record, rows in computed:
                self.bases += record.length
                done.add(record.length)
                yield record, rows

    def with_what(self) -> str:
        """The end of the line that tells what was done: the model, where it ran, and how long it took."""
        info, seconds = self._engine.info, time.monotonic() - self._began_at
        return f"with the model {info.model_id} on {info.device} ({info.precision}) in {seconds:.1f} s"

    def complain(self) -> None:
        """Raise UserError if records were left out, for the exit code."""
        from consumer.cli.error_messages import UserError

        if self.refused:
            raise UserError(f"{self.refused} records were left out (named above); correct or remove them")

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
