"""The batching policy: frames wait here until a batch is due. Exact token budget, bounded wait.

A batch is full when the next frame does not fit into the token budget. A full batch may be taken at any time, so that
what has to be done before it runs is done while the device computes the batch before it. One that is not full
closes only when the device is idle, and

* deadline  the oldest frame's message was polled `max_wait` ago;
* idle      nothing more is being prepared, and the oldest frame has waited `linger`;
* drain     the service is stopping: whatever is there goes.

So under load batches fill up by themselves, and latency is low when traffic is low. A frame is never split; a record
larger than the budget spreads over several batches. The budget holds for both models: neither the proteins' nor the
nucleotides' tokens exceed it.
The policy follows text-embeddings-inference (`core/src/queue.rs`), with an exact budget.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from consumer.clock import Clock, Deadline, monotonic
from consumer.types import Source
from virnucpro_core.scoring.packing import how_many_fit
from virnucpro_core.scoring.pending import PendingRecord, Slot, slots_of

CloseReason = Literal["full", "deadline", "idle", "drain"]


@dataclass(slots=True, eq=False)
class RecordJob(PendingRecord):
    """A record of the service on its way through the model: where it came from, and when it was polled."""

    source: Source
    received_at: float


JobSlot = Slot[RecordJob]


@dataclass(frozen=True, slots=True)
class Batch:
    slots: tuple[JobSlot, ...]
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
        device_idle: does the device wait for a batch? Call `notify` when that changes.
    """

    def __init__(
        self,
        token_budget: int,
        max_wait: float,
        backlog: int,
        preparing: Callable[[], bool],
        device_idle: Callable[[], bool] = lambda: True,
        linger: float = 0.003,
        clock: Clock = monotonic,
    ) -> None:
        self.token_budget = token_budget
        self._max_wait, self._linger, self._backlog = max_wait, linger, backlog
        self._preparing, self._device_idle, self._clock = preparing, device_idle, clock
        self._queue: deque[JobSlot] = deque()
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
            self._queue.extend(slots_of(job))
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
                    return Batch(slots, tokens, closed_by)
                if deadline.expired:
                    return None
                self._changed.wait(min(due_in, deadline.remaining()))
            return None

    def notify(self) -> None:
        """Look again: something that the policy asks about (`preparing`, `device_idle`) has changed."""
        with self._changed:
            self._changed.notify_all()

    def discard(self, unwanted: Callable[[Source], bool]) -> None:
        """Drop the queued frames of records that are no longer wanted, unless the first of them has been taken."""
        with self._changed:
            keep = [s for s in self._queue if self._taken_in_part(s.record) or not unwanted(s.record.source)]
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

    def _taken_in_part(self, job: RecordJob) -> bool:
        # Frames leave in order, so it can only be the record at the head.
        return self._queue[0].record is job and self._queue[0].index > 0

    def _due(self, full: bool) -> tuple[CloseReason | None, float]:
        """Why the batch at the head is due now, or None and the seconds until it will be."""
        if full:
            return "full", 0.0
        if not self._device_idle():
            return None, math.inf
        if self._draining:
            return "drain", 0.0
        age = self._clock() - self._queue[0].record.received_at
        if age >= self._max_wait:
            return "deadline", 0.0
        idle = not self._preparing()
        if idle and age >= self._linger:
            return "idle", 0.0
        return None, (min(self._linger, self._max_wait) if idle else self._max_wait) - age
