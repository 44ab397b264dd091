"""Put a stream of records through a model without any broker: the same steps as the service's, on one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.scoring.model import Compute, Preparer, PreparingScorer, preparer
from virnucpro_core.scoring.packing import Packer
from virnucpro_core.scoring.pending import PendingRecord, Slot, slots_of
from virnucpro_core.scoring.results import RecordResult, assemble
from virnucpro_core.scoring.robust import Failure, score_robustly
from virnucpro_core.sequence.prepare import PreparedRecord
from virnucpro_core.sequence.validation import InvalidSequence, validate

OnLeftOut = Callable[[str, InvalidSequence | Failure], None]
"""Called with (record id, reason) for each record that is left out; it may raise to stop."""

_MOST_WAITING_RECORDS = 1024
"""Records that may wait for a batch: a long run of records without frames must not pile up behind one."""


class _Waiting:
    """Records on their way, in order, and those of their frames that have not been in a batch."""

    def __init__(self, compute: Compute, token_budget: int, on_left_out: OnLeftOut) -> None:
        self._compute, self._on_left_out = compute, on_left_out
        self._records: deque[PendingRecord] = deque()
        self._packer = Packer[Slot[PendingRecord]](token_budget)

    def add(self, prepared: PreparedRecord) -> None:
        """Take a record, and compute the batches that its frames fill."""
        record = PendingRecord(prepared)
        self._records.append(record)
        for slot in slots_of(record):
            self._score(self._packer.add(slot, slot.frame))
        if len(self._records) > _MOST_WAITING_RECORDS:
            self.compute_rest()

    def compute_rest(self) -> None:
        """Compute the frames that wait, in a batch that need not be full."""
        self._score(self._packer.take())

    def take_done(self) -> Iterator[tuple[PreparedRecord, list[NDArray[np.float32]]]]:
        """The records at the head of the line whose frames have all been in a batch, without those given up."""
        while self._records and self._records[0].is_done:
            record = self._records.popleft()
            if record.failure is None:
                yield record.prepared, record.computed()

    def run_failed(self, failure: Failure, records: int, frames: int) -> None:
        """Only the records that are given up are reported."""

    def computed(self, record: PendingRecord) -> None:
        """`take_done` finds it."""

    def given_up(self, record: PendingRecord, failure: Failure) -> None:
        self._on_left_out(record.prepared.record_id, failure)

    def _score(self, batch: list[Slot[PendingRecord]]) -> None:
        score_robustly(lambda slots: self._compute([slot.frame for slot in slots]), batch, self)


def score_records(
    records: Iterable[tuple[str, str | None, str]],
    engine: PreparingScorer,
    token_budget: int,
    max_bases: int,
    on_left_out: OnLeftOut,
    keep_u: bool = False,
) -> Iterator[RecordResult]:
    """Score records in batches that several records share; arguments, memory and errors as of `rows_of_records`.

    Yields:
        the result of each record that can be scored, in the order of `records`.
    """
    scored = rows_of_records(records, engine, engine.score, token_budget, max_bases, on_left_out, keep_u)
    for prepared, scores in scored:
        yield assemble(prepared, np.array(scores, dtype=np.float32).reshape(-1, 2))


def rows_of_records(
    records: Iterable[tuple[str, str | None, str]],
    engine: Preparer,
    compute: Compute,
    token_budget: int,
    max_bases: int,
    on_left_out: OnLeftOut,
    keep_u: bool = False,
) -> Iterator[tuple[PreparedRecord, list[NDArray[np.float32]]]]:
    """Put records through a model in batches that several records share.

    Memory is bounded by a batch, the record read last and the records that wait for either.

    Args:
        records: (id, description, sequence), as `virnucpro_core.sequence.fasta.read_sequences` yields them.
        engine: the model that frames are prepared for.
        compute: what is computed of a batch.
        token_budget: most tokens of a batch, for either model.
        max_bases: a longer sequence is invalid.
        on_left_out: called for each record that is invalid, as soon as it is read, or that the model cannot compute
            (one frame does not fit into memory, or it fails on this record alone).
        keep_u: as of `virnucpro_core.sequence.prepare.prepare`.

    Yields:
        each other record, in the order of `records`, with a row [columns] for each of its frames.

    Raises:
        ValueError: a single frame is over the token budget.
        DeviceLost: from the model. What `records` and `on_left_out` raise passes through.
    """
    prepare_sequence = preparer(engine, keep_u)
    waiting = _Waiting(compute, token_budget, on_left_out)
    for record_id, _, sequence in records:
        try:
            validate(record_id, sequence, max_bases)
        except InvalidSequence as error:
            on_left_out(record_id, error)
            continue
        waiting.add(prepare_sequence(record_id, sequence))
        yield from waiting.take_done()
    waiting.compute_rest()
    yield from waiting.take_done()
