"""Put a stream of records through a model without any broker: the same steps as the service's, on one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.scoring.packing import how_many_fit
from virnucpro_core.scoring.results import RecordResult, assemble
from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord, prepare
from virnucpro_core.sequence.tokens import DnaTokenizer
from virnucpro_core.sequence.validation import InvalidSequence, validate

OnInvalid = Callable[[str, InvalidSequence], None]
"""Told (record id, what is wrong) of each record that is left out; it may raise to stop."""

Compute = Callable[[Sequence[PreparedFrame]], NDArray[np.float32]]
"""A batch of frames -> float32 [frames, columns]: the engine's `score` or `features`."""

_MOST_WAITING_RECORDS = 1024
"""Records that may wait for a batch: a long run of records without frames must not pile up behind one."""


class Preparer(Protocol):
    """What a model says about the preparation of its frames."""

    @property
    def expected_length(self) -> int:
        """Bases in a full chunk."""

    @property
    def tokenizer(self) -> DnaTokenizer:
        """The nucleotide tokenizer that belongs to the weights."""


class Scorer(Preparer, Protocol):
    """The model: `virnucpro_core.models.engine.Engine`, or a stand-in of a test."""

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        """Softmax scores, float32 [frames, 2]: others, virus."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A record and the rows, [columns] each, of as many of its frames as have been in a batch."""

    prepared: PreparedRecord
    rows: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return len(self.rows) == len(self.prepared.frames)


class _Waiting:
    """Records on their way, in order, and those of their frames that have not been in a batch."""

    def __init__(self, compute: Compute, token_budget: int) -> None:
        self._compute, self._token_budget = compute, token_budget
        self._jobs: deque[_Job] = deque()
        self._frames: deque[tuple[_Job, PreparedFrame]] = deque()
        self._protein_tokens = self._dna_tokens = 0

    def add(self, prepared: PreparedRecord) -> None:
        job = _Job(prepared)
        self._jobs.append(job)
        for frame in prepared.frames:
            self._frames.append((job, frame))
            self._protein_tokens += frame.tokens
            self._dna_tokens += len(frame.dna_ids)

    @property
    def batch_due(self) -> bool:
        """Are there more tokens than one batch takes, or too many records behind these frames?"""
        full = max(self._protein_tokens, self._dna_tokens) > self._token_budget
        return full or (bool(self._frames) and len(self._jobs) > _MOST_WAITING_RECORDS)

    @property
    def has_frames(self) -> bool:
        return bool(self._frames)

    def compute_batch(self) -> None:
        """Put as many frames from the head through the model as the budget takes."""
        count, protein_tokens, _ = how_many_fit((frame for _, frame in self._frames), self._token_budget)
        if not count:
            frame = self._frames[0][1]
            raise ValueError(
                f"a frame of {frame.tokens} protein and {len(frame.dna_ids)} nucleotide tokens is over the "
                f"token budget of {self._token_budget}: raise the budget"
            )
        batch = [self._frames.popleft() for _ in range(count)]
        self._protein_tokens -= protein_tokens
        self._dna_tokens -= sum(len(frame.dna_ids) for _, frame in batch)
        rows = self._compute([frame for _, frame in batch])
        for (job, _), row in zip(batch, rows, strict=True):
            job.rows.append(row)

    def take_done(self) -> Iterator[tuple[PreparedRecord, list[NDArray[np.float32]]]]:
        """The records at the head of the line whose frames have all been in a batch."""
        while self._jobs and self._jobs[0].done:
            job = self._jobs.popleft()
            yield job.prepared, job.rows


def score_records(
    records: Iterable[tuple[str, str | None, str]],
    engine: Scorer,
    token_budget: int,
    max_bases: int,
    on_invalid: OnInvalid,
) -> Iterator[RecordResult]:
    """Score records in batches that several records share; arguments, memory and errors as of `rows_of_records`.

    Yields:
        the result of each valid record, in the order of `records`.
    """
    scored = rows_of_records(records, engine, engine.score, token_budget, max_bases, on_invalid)
    for prepared, scores in scored:
        yield assemble(prepared, np.array(scores, dtype=np.float32).reshape(-1, 2))


def rows_of_records(
    records: Iterable[tuple[str, str | None, str]],
    engine: Preparer,
    compute: Compute,
    token_budget: int,
    max_bases: int,
    on_invalid: OnInvalid,
) -> Iterator[tuple[PreparedRecord, list[NDArray[np.float32]]]]:
    """Put records through a model in batches that several records share.

    Memory is bounded by a batch, the record read last and the records that wait for either.

    Args:
        records: (id, description, sequence), as `virnucpro_core.sequence.fasta.read_sequences` yields them.
        engine: the model that frames are prepared for.
        compute: what is computed of a batch.
        token_budget: most tokens of a batch, for either model.
        max_bases: a longer sequence is invalid.
        on_invalid: told of each invalid record as soon as it is read.

    Yields:
        each valid record, in the order of `records`, with a row [columns] for each of its frames.

    Raises:
        ValueError: a single frame is over the token budget.
        CoreError: the model failed. What `records` and `on_invalid` raise passes through.
    """
    waiting = _Waiting(compute, token_budget)
    for record_id, _, sequence in records:
        try:
            validate(record_id, sequence, max_bases)
        except InvalidSequence as error:
            on_invalid(record_id, error)
            continue
        waiting.add(prepare(record_id, sequence, engine.expected_length, engine.tokenizer))
        while waiting.batch_due:
            waiting.compute_batch()
        yield from waiting.take_done()
    while waiting.has_frames:
        waiting.compute_batch()
    yield from waiting.take_done()
