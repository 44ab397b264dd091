"""The batching policy: frames wait here until a batch is due. Exact token budget, bounded wait.

The thread that owns the GPU asks for the next batch whenever it is idle, so "the GPU is idle" is simply that
somebody waits in `next_batch`. A batch closes when

* full      the next frame does not fit into the token budget;
* deadline  the oldest frame's message was polled `max_wait` ago;
* idle      nothing more is being prepared, and the oldest frame has waited `linger`;
* drain     the service is stopping: whatever is there goes.

While the GPU computes nothing closes a batch, so under load batches fill up by themselves, and latency is low
when traffic is. A frame is never split; a record larger than the budget spreads over several batches. The
budget holds for both models: neither the proteins' nor the nucleotides' tokens exceed it.
The policy follows text-embeddings-inference (`core/src/queue.rs`), with an exact budget.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from consumer.clock import Clock, Deadline, monotonic
from consumer.types import Source
from virnucpro_core.scoring.packing import how_many_fit
from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord

CloseReason = Literal["full", "deadline", "idle", "drain"]


@dataclass(slots=True, eq=False)
class RecordJob:
    """A prepared record on its way through the model; `scores` fills as its frames' batches finish."""

    source: Source
    prepared: PreparedRecord
    received_at: float
    scores: NDArray[np.float32] = field(init=False)
    missing: int = field(init=False)
    failure: str | None = None

    def __post_init__(self) -> None:
        self.missing = len(self.prepared.frames)
        self.scores = np.full((self.missing, 2), np.nan, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Slot:
    """One frame in a batch: whose it is, and which row of the record's scores it fills."""

    job: RecordJob
    index: int

    @property
    def frame(self) -> PreparedFrame:
        return self.job.prepared.frames[self.index]


@dataclass(frozen=True, slots=True)
class Batch:
    slots: tuple[Slot, ...]
    tokens: int
    closed_by: CloseReason


class Batcher:
    """A bounded queue of frames that gives them out as batches. All methods are safe from any thread.

    Args:
        token_budget: most tokens of a batch, for either model.
        max_wait: seconds after its poll at which a message's frames are sent in any case.
        linger: seconds that an idle GPU waits for company when nothing more is being prepared.
        backlog: `put` blocks while this many tokens are queued.
        preparing: is any record being prepared at this moment?
        taken: called with each batch that is given out, while no other thread can look at the queue.
    """

    def __init__(
        self,
        token_budget: int,
        max_wait: float,
        backlog: int,
        preparing: Callable[[], bool],
        taken: Callable[[Batch], None] = lambda _: None,
        linger: float = 0.003,
        clock: Clock = monotonic,
    ) -> None:
        self.token_budget = token_budget
        self._max_wait, self._linger, self._backlog = max_wait, linger, backlog
        self._preparing, self._taken, self._clock = preparing, taken, clock
        self._queue: deque[Slot] = deque()
        self._tokens = 0
        self._draining = self._closed = False
        self._changed = threading.Condition()

    @property
    def queued_tokens(self) -> int:
        return self._tokens

    def put(self, job: RecordJob, timeout: float) -> bool:
        """Queue all frames of a record; False if closed, or if the backlog had no room
        within `timeout` seconds.

        A record is taken whole, however large, once the backlog is below its bound: memory is bounded by
        the backlog plus one record.
        """
        for index, frame in enumerate(job.prepared.frames):
            if max(frame.tokens, len(frame.dna_ids)) > self.token_budget:
                raise ValueError(
                    f"frame {index} of {job.source} has {frame.tokens} protein and {len(frame.dna_ids)} "
                    f"nucleotide tokens, over the token budget of {self.token_budget}"
                )
        with self._changed:
            self._changed.wait_for(lambda: self._tokens < self._backlog or self._closed, timeout)
            if self._tokens >= self._backlog or self._closed:
                return False
            self._queue.extend(Slot(job, index) for index in range(len(job.prepared.frames)))
            self._tokens += job.prepared.tokens
            self._changed.notify_all()
            return True

    def next_batch(self, timeout: float) -> Batch | None:
        """Wait until a batch is due and take it; None after `timeout` seconds, or when closed."""
        deadline = Deadline.after(timeout, self._clock)
        with self._changed:
            while not self._closed:
                count, tokens, full = how_many_fit((slot.frame for slot in self._queue), self.token_budget)
                closed_by, due_in = self._due(full) if count else (None, deadline.remaining())
                if closed_by:
                    slots = tuple(self._queue.popleft() for _ in range(count))
                    self._tokens -= tokens
                    self._changed.notify_all()
                    batch = Batch(slots, tokens, closed_by)
                    self._taken(batch)
                    return batch
                if deadline.expired:
                    return None
                self._changed.wait(min(due_in, deadline.remaining()))
            return None

    def notify(self) -> None:
        """Look again: something that the policy asks about (`preparing`) has changed."""
        with self._changed:
            self._changed.notify_all()

    def discard(self, unwanted: Callable[[Source], bool]) -> None:
        """Drop the queued frames of records that nobody wants any more and of which none has been started."""
        with self._changed:
            keep = [s for s in self._queue if self._started(s.job) or not unwanted(s.job.source)]
            self._queue = deque(keep)
            self._tokens = sum(slot.frame.tokens for slot in keep)
            self._changed.notify_all()

    def drain(self) -> None:
        """From now on a batch is due as soon as there is a frame."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def close(self) -> None:
        """Wake everybody who waits; nothing is given out any more."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._tokens = 0
            self._changed.notify_all()

    def _started(self, job: RecordJob) -> bool:
        return (
            self._queue[0].job is job and self._queue[0].index > 0
        )  # frames leave in order, so only the head

    def _due(self, full: bool) -> tuple[CloseReason | None, float]:
        """Why the batch at the head is due now, or None and the seconds until it will be."""
        if full:
            return "full", 0.0
        if self._draining:
            return "drain", 0.0
        age = self._clock() - self._queue[0].job.received_at
        if age >= self._max_wait:
            return "deadline", 0.0
        idle = not self._preparing()
        if idle and age >= self._linger:
            return "idle", 0.0
        return None, (min(self._linger, self._max_wait) if idle else self._max_wait) - age
