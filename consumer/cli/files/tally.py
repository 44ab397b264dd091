"""What became of the records of a run, counted; and what is said of it once, at the end."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

from consumer.cli.error_messages import UserError, note, warn
from virnucpro_core.sequence.rna import holds_u

if TYPE_CHECKING:
    from virnucpro_core.scoring.outcomes import LeftOut, Outcome, Record

_CURES = {
    "sequence_too_long": "; VIRNUCPRO_MAX_SEQUENCE_BASES raises it",
    "out_of_memory": "; free memory of the device, or take another with --device",
}


class Tally:
    """Counts the records of one run.

    Attributes:
        read, bases_read: records of the file so far, and their letters.
        scored, bases: records with a result, and their bases.
        verdicts: how many of them got which.
        left_out: how many records have no result, by reason; each was named on stderr.
    """

    def __init__(self) -> None:
        self.read = self.bases_read = self.scored = self.bases = 0
        self.verdicts: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self._with_u = 0
        # 8 bytes of each id: a file may hold more of them than memory.
        self._ids = array("q")

    @property
    def refused(self) -> int:
        """Records without a result."""
        return self.left_out.total()

    def read_one(self, record: Record) -> None:
        """One more record of the file."""
        record_id, _, letters = record
        self.read += 1
        self.bases_read += len(letters)
        self._with_u += holds_u(letters)
        self._ids.append(hash(record_id))

    def add(self, outcome: Outcome) -> None:
        """What became of the next record; one that is left out is named on stderr."""
        from virnucpro_core.scoring.outcomes import LeftOut

        if isinstance(outcome, LeftOut):
            self.leave_out(outcome)
            return
        self.scored += 1
        self.bases += outcome.result.length
        self.verdicts[outcome.result.verdict] += 1

    def leave_out(self, record: LeftOut) -> None:
        """Count a record without a result, and name it on stderr."""
        self.left_out[record.reason] += 1
        warn(f"record {record.record[0]!r} is left out: {record.detail}{_CURES.get(record.reason, '')}")

    def repeated_ids(self) -> tuple[int, int]:
        """How many ids come more than once, and how many records have one of them."""
        import numpy as np

        _, counts = np.unique(np.array(self._ids, dtype=np.int64), return_counts=True)
        repeated = counts[counts > 1]
        return len(repeated), int(repeated.sum())

    def say_repeated_ids(self, told_apart: bool) -> None:
        """Say once a file that ids come more than once; told_apart: the main output names them `id_1`, `id_2`."""
        repeated, records = self.repeated_ids()
        if not repeated:
            return
        ids = "id comes" if repeated == 1 else "ids come"
        how = "named id_1, id_2, ... in the main output" if told_apart else "kept as they are"
        note(f"{repeated:,} {ids} more than once; the {records:,} records are {how}")

    def say_rna(self, keep_u: bool) -> None:
        """Say once a file that it is RNA, and what was made of that."""
        if not self._with_u:
            return
        what = "record holds" if self._with_u == 1 else "records hold"
        how = (
            "every codon with a U was dropped, as VirNucPro does (VIRNUCPRO_KEEP_U or --keep-u)"
            if keep_u
            else "U was read as T (--keep-u drops codons with U, as VirNucPro does)"
        )
        note(f"{self._with_u:,} {what} U, RNA: {how}")

    def complain(self) -> None:
        """Raise UserError if records were left out, for the exit code.

        A file in which no record has a letter holds nothing to score, as an empty one does: that is not an error.
        """
        if not self.refused or (not self.scored and set(self.left_out) == {"empty_sequence"}):
            return
        cure = "correct or remove them"
        if not self.scored and set(self.left_out) == {"invalid_nucleotides"}:
            cure += ", or give the nucleotide sequences if these are proteins"
        raise UserError(f"{self.refused} records were left out (named above); {cure}")
