"""Small values that many tests need, made by the shortest call that names what matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar

import numpy as np
from confluent_kafka import KafkaException
from numpy.typing import NDArray

from consumer.scoring.batcher import RecordJob
from consumer.scoring.inference import Isolation
from consumer.types import Finished, Outcome, Partition, RawMessage, Refused, Scored, Source
from schemas import Provenance, Reason, SequenceRecord, encode_record
from virnucpro_core.scoring.model import EngineInfo
from virnucpro_core.scoring.results import assemble
from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord

T = TypeVar("T")
TOPIC = "sequences"
INFO = EngineInfo("nano", "ab" * 32, 500, "packed", "sdpa", "sdpa", "fp32", "cpu")
STAMP = Provenance("nano", "ab" * 32, 500, "packed", "sdpa", "fp32", "0.1.0")
"""What every answer says of the model that scored it."""


def at_once(call: Callable[[], T]) -> Future[T]:
    """In place of a thread: make the call now."""
    future: Future[T] = Future()
    try:
        future.set_result(call())
    except KafkaException as error:
        future.set_exception(error)
    return future


class AtOnce(Executor):
    """An executor without threads: makes each call when it is submitted."""

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return at_once(partial(call, *args, **kwargs))


class FakeClock:
    """A clock that a test moves by hand."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def partition(number: int = 0) -> Partition:
    return Partition(TOPIC, number)


def source(offset: int, number: int = 0, epoch: int = 1) -> Source:
    return Source(partition(number), epoch, offset)


def message(
    offset: int,
    number: int = 0,
    epoch: int = 1,
    value: bytes | None = b"value",
    key: bytes | None = b"key",
    headers: tuple[tuple[str, bytes | None], ...] = (),
    timestamp_ms: int | None = 1_700_000_000_000,
    received_at: float = 100.0,
) -> RawMessage:
    return RawMessage(source(offset, number, epoch), key, value, headers, timestamp_ms, received_at)


def record_message(offset: int, sequence: str, record_id: str = "r", number: int = 0) -> RawMessage:
    return message(offset, number, value=encode_record(SequenceRecord(record_id, sequence)))


def prepared_frame(
    tokens: int = 10, dna_tokens: int | None = None, chunk: int = 0, label: str = "F1"
) -> PreparedFrame:
    return PreparedFrame(
        chunk=chunk,
        label=label,
        protein_ids=np.full(tokens, 5, dtype=np.int32),
        dna_ids=np.full(tokens if dna_tokens is None else dna_tokens, 7, dtype=np.int32),
    )


def prepared_record(*tokens: int, record_id: str = "r") -> PreparedRecord:
    """A record of one chunk a frame, its frames of the given numbers of tokens."""
    frames = tuple(prepared_frame(count, chunk=index) for index, count in enumerate(tokens))
    spans = tuple((500 * index, 500 * (index + 1)) for index in range(len(tokens) or 1))
    return PreparedRecord(record_id=record_id, length=500 * len(spans), spans=spans, frames=frames)


def scored(*tokens: int, record_id: str = "r") -> Scored:
    prepared = prepared_record(*tokens, record_id=record_id)
    scores = np.tile(np.array([0.25, 0.75], dtype=np.float32), (len(tokens), 1))
    return Scored(assemble(prepared, scores), prepared.tokens)


def refused(detail: str = "no") -> Refused:
    return Refused(Reason.MALFORMED, "decode", detail)


def finished(offset: int, number: int = 0, epoch: int = 1, outcome: Outcome | None = None) -> Finished:
    return Finished(source(offset, number, epoch), outcome or refused())


class NoSuspects:
    """The suspects of a process that remembers none."""

    def announced(self, jobs: Sequence[RecordJob]) -> None: ...

    def begins(self) -> None: ...

    def isolation(self, job: RecordJob) -> Isolation:
        return "run"

    def entering(self, jobs: Sequence[RecordJob]) -> None: ...

    def left(self) -> None: ...

    def cleared(self, job: RecordJob) -> None: ...


class ConstantScorer:
    """A model without weights: the virus score of a frame is the share of its tokens in 1000. Notes its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        self.batches.append(len(frames))
        virus = np.array([frame.tokens / 1000 for frame in frames], dtype=np.float32)
        return np.stack([1 - virus, virus], axis=1)
