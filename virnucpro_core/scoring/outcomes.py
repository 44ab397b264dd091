"""What became of the records of a file: each is scored, or left out with a reason, and keeps its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.scoring.results import RecordResult
from virnucpro_core.scoring.robust import Failure
from virnucpro_core.sequence.prepare import PreparedRecord
from virnucpro_core.sequence.validation import InvalidKind, InvalidSequence

Record = tuple[str, str | None, str]
"""id, description or None, letters; as `virnucpro_core.sequence.fasta.read_sequences` yields them."""

LeftOutReason = InvalidKind | Literal["out_of_memory", "inference_failed"]


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """A record that has no result.

    Attributes:
        record: as it was read.
        reason: why, from a closed list.
        detail: why, one line for people.
    """

    record: Record
    reason: LeftOutReason
    detail: str

    @classmethod
    def of(cls, record: Record, why: InvalidSequence | Failure) -> LeftOut:
        """Keeps the words of an error and not the error, which would keep alive what it passed through."""
        if isinstance(why, InvalidSequence):
            return cls(record, why.kind, why.detail)
        reason: LeftOutReason = "out_of_memory" if why.kind == "out_of_memory" else "inference_failed"
        return cls(record, reason, why.detail)


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A record with a row of the model, float32 [columns], for each of its frames."""

    record: Record
    prepared: PreparedRecord
    rows: list[NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRecord:
    """A record and its result; the verdict may be `no_open_frame`."""

    record: Record
    result: RecordResult


Outcome = ScoredRecord | LeftOut
