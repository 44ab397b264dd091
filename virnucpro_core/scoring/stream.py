"""Put a stream of records through a model without any broker: the same steps as the service's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from virnucpro_core.scoring.computing import Computing, Here, Rows
from virnucpro_core.scoring.model import FloatArray, Preparer, PreparingScorer, preparer
from virnucpro_core.scoring.outcomes import Computed, LeftOut, Outcome, Record, ScoredRecord
from virnucpro_core.scoring.packing import Packer
from virnucpro_core.scoring.pending import PendingRecord, Slot, slots_of
from virnucpro_core.scoring.preparing import prepared_ahead, prepared_in_turn
from virnucpro_core.scoring.results import assemble
from virnucpro_core.scoring.robust import Failure, score_robustly
from virnucpro_core.scoring.row_journal import RowJournal
from virnucpro_core.sequence.prepare import PreparedRecord
from virnucpro_core.sequence.validation import InvalidSequence, validate

_MOST_WAITING_RECORDS = 1024
"""Records that may wait for a batch: a long run of records without frames must not pile up behind one."""


@dataclass(slots=True, eq=False)
class _FileRecord(PendingRecord):
    """A record on its way, with what was read of it and its number in the file; `left_out` once it was given up."""

    source: Record
    number: int
    left_out: LeftOut | None = field(init=False, default=None)


class _Waiting:
    """Records on their way, in order, and those of their frames that have not been in a batch."""

    def __init__(self, computing: Computing, token_budget: int, journal: RowJournal | None) -> None:
        self._computing, self._journal = computing, journal
        self._line: deque[_FileRecord | LeftOut] = deque()
        self._packer = Packer[Slot[_FileRecord]](token_budget)
        # Batches that were begun, the oldest first.
        self._begun: deque[tuple[list[Slot[_FileRecord]], Rows]] = deque()

    def add(self, record: _FileRecord | LeftOut) -> None:
        """Take a record, and compute the batches that those of its frames fill that are not in the journal."""
        self._line.append(record)
        if isinstance(record, _FileRecord):
            known = self._journal.rows_of(record.number) if self._journal is not None else {}
            for slot in slots_of(record):
                if slot.index in known:
                    record.keep(slot.index, known[slot.index])
                else:
                    self._begin(self._packer.add(slot, slot.frame))
        if len(self._line) > _MOST_WAITING_RECORDS * (1 + self._computing.ahead):
            self.compute_rest()

    def compute_rest(self) -> None:
        """Compute the frames that wait, in a batch that need not be full, and wait for all that was begun."""
        self._begin(self._packer.take())
        while self._begun:
            self._finish_oldest()

    def take_done(self) -> Iterator[Computed | LeftOut]:
        """The records at the head of the line whose frames have all been in a batch."""
        while self._line:
            record = self._line[0]
            if isinstance(record, _FileRecord):
                if not record.is_done:
                    return
                done = record.left_out or Computed(record.source, record.prepared, record.computed())
            else:
                done = record
            self._line.popleft()
            yield done

    def run_failed(self, failure: Failure, records: int, frames: int) -> None:
        """Only the records that are given up are reported."""

    def computed(self, record: _FileRecord) -> None:
        """`take_done` finds it."""

    def given_up(self, record: _FileRecord, failure: Failure) -> None:
        record.left_out = LeftOut.of(record.source, failure)

    def _begin(self, batch: list[Slot[_FileRecord]]) -> None:
        batch = [slot for slot in batch if slot.record.failure is None]
        if batch:
            self._begun.append((batch, self._computing.begin([slot.frame for slot in batch])))
        while len(self._begun) > self._computing.ahead:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        batch, begun = self._begun.popleft()
        first: list[Rows] = [begun]

        def run(slots: Sequence[Slot[_FileRecord]]) -> FloatArray:
            if first:
                rows = first.pop()()
                if len(slots) < len(batch) == len(rows):  # a record was given up after this batch was begun
                    wanted = set(map(id, slots))
                    rows = rows[[id(slot) in wanted for slot in batch]]
            else:
                rows = self._computing.begin([slot.frame for slot in slots])()
            if self._journal is not None:
                self._journal.append([(slot.record.number, slot.index) for slot in slots], rows)
            return rows

        score_robustly(run, batch, self)


def score_records(
    records: Iterable[Record],
    engine: PreparingScorer,
    token_budget: int,
    max_bases: int,
    keep_u: bool = False,
    journal: RowJournal | None = None,
) -> Iterator[Outcome]:
    """Score records in batches that several records share; arguments, memory and errors as of `rows_of_records`.

    Yields:
        what became of each record, in the order of `records`.
    """
    here = Here(engine.score)
    yield from map(
        outcome_of, rows_of_records(records, engine, here, token_budget, max_bases, keep_u, journal)
    )


def outcome_of(done: Computed | LeftOut) -> Outcome:
    """The result of a record whose rows are the scores of its frames."""
    if isinstance(done, LeftOut):
        return done
    scores = np.array(done.rows, dtype=np.float32).reshape(-1, 2)
    return ScoredRecord(done.record, assemble(done.prepared, scores))


def rows_of_records(
    records: Iterable[Record],
    engine: Preparer,
    computing: Computing,
    token_budget: int,
    max_bases: int,
    keep_u: bool = False,
    journal: RowJournal | None = None,
) -> Iterator[Computed | LeftOut]:
    """Put records through a model in batches that several records share.

    Memory is bounded by the batches under way, the record read last and the records that wait for either; where batches
    are computed ahead, records are prepared ahead too, by threads.

    Args:
        records: as `virnucpro_core.sequence.fasta.read_sequences` yields them.
        engine: the model that frames are prepared for.
        computing: computes the batches.
        token_budget: most tokens of a batch, for either model.
        max_bases: a longer sequence is invalid.
        keep_u: as of `virnucpro_core.sequence.prepare.prepare`.
        journal: of scores, begun: what it holds is not computed again, and what is computed is kept there.

    Yields:
        what became of each record, in the order of `records`. Left out is what is invalid, and what the model cannot
        compute: one frame does not fit into memory, or it fails on this record alone.

    Raises:
        ValueError: a single frame is over the token budget.
        DeviceLost: from the model. What `records` raises passes through.
        OSError: from the journal.
    """
    prepare_sequence = preparer(engine, keep_u)

    def prepare(record: Record) -> PreparedRecord | LeftOut:
        record_id, _, sequence = record
        try:
            validate(record_id, sequence, max_bases)
        except InvalidSequence as error:
            return LeftOut.of(record, error)
        return prepare_sequence(record_id, sequence)

    in_order = prepared_ahead if computing.ahead else prepared_in_turn
    waiting = _Waiting(computing, token_budget, journal)
    for number, (record, prepared) in enumerate(in_order(records, prepare)):
        waiting.add(prepared if isinstance(prepared, LeftOut) else _FileRecord(prepared, record, number))
        yield from waiting.take_done()
    waiting.compute_rest()
    yield from waiting.take_done()
