"""The batching policy: frames wait here until a batch is due. Exact token budget, bounded wait, partitions in turns.

A batch is full when the next frame does not fit into the token budget. A full batch may be taken at any time, so that
what has to be done before it runs is done while the device computes the batch before it. One that is not full
closes only when the device is idle, and

* deadline  the oldest frame has waited here for `max_wait`. Not since its message was polled: under a backlog that was
            long ago, and batches would close half full while preparation fills them;
* idle      nothing more is being prepared, and the oldest frame has waited `linger`;
* drain     the service is stopping: whatever is there goes.

So under load batches fill up by themselves, and latency is low when traffic is low. A frame is never split; a record
larger than the budget spreads over several batches. The budget holds for both models: neither the proteins' nor the
nucleotides' tokens exceed it.

A batch takes a frame of each partition in turn, so a genome in one partition, or a backlog, leaves the others their
share of the device. Within a partition frames keep their order: answers leave in the order of offsets, so nothing
would be gained by overtaking.

The policy follows text-embeddings-inference (`core/src/queue.rs`), with an exact budget and queues in turns.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np

from consumer.clock import Clock, Deadline, monotonic
from consumer.shares import fair_share
from consumer.types import Partition, Source
from virnucpro_core.scoring.packing import how_many_fit
from virnucpro_core.scoring.pending import PendingRecord, Slot, slots_of

_ID_BYTES = np.dtype(np.int32).itemsize

CloseReason = Literal["full", "deadline", "idle", "drain"]


@dataclass(slots=True, eq=False)
class RecordJob(PendingRecord):
    """A record of the service on its way through the model: where it came from, and when it was prepared."""

    source: Source
    prepared_at: float


JobSlot = Slot[RecordJob]


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames for one run of the model: their protein tokens, what closed it, and their nucleotide tokens."""

    slots: tuple[JobSlot, ...]
    tokens: int
    closed_by: CloseReason
    dna_tokens: int = 0


@dataclass(slots=True, eq=False)
class _Queue:
    """The frames of one partition that wait, and their tokens for either model."""

    slots: deque[JobSlot] = field(default_factory=deque)
    tokens: int = 0
    dna_tokens: int = 0

    def add(self, slots: Iterable[JobSlot]) -> None:
        for slot in slots:
            self.slots.append(slot)
            self.tokens += slot.frame.tokens
            self.dna_tokens += len(slot.frame.dna_ids)

    def take(self, count: int) -> list[JobSlot]:
        taken = [self.slots.popleft() for _ in range(count)]
        self.tokens -= sum(slot.frame.tokens for slot in taken)
        self.dna_tokens -= sum(len(slot.frame.dna_ids) for slot in taken)
        return taken

    @property
    def waits_since(self) -> float:
        return self.slots[0].record.prepared_at


class Batcher:
    """A bounded queue of frames that gives them out as batches. All methods are safe from any thread.

    Args:
        token_budget: most tokens of a batch, for either model.
        max_wait: seconds that a frame waits for company while more is being prepared.
        linger: seconds that an idle GPU waits for company when nothing more is being prepared.
        backlog: tokens that may wait. The partitions share it; one may exceed its share by one record.
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
        # Only partitions that have frames; the one whose turn it is comes first.
        self._queues: dict[Partition, _Queue] = {}
        self._draining = self._closed = False
        self._changed = threading.Condition()

    @property
    def queued_tokens(self) -> int:
        """Protein tokens that wait."""
        return sum(self.tokens_by_partition().values())

    def tokens_by_partition(self) -> dict[Partition, int]:
        """Protein tokens that wait, of each partition that has any."""
        with self._changed:
            return {partition: waiting.tokens for partition, waiting in self._queues.items()}

    @property
    def queued_bytes(self) -> int:
        """Bytes of the token ids that wait, for both models."""
        with self._changed:
            return _ID_BYTES * sum(waiting.tokens + waiting.dna_tokens for waiting in self._queues.values())

    def has_room(self, partition: Partition) -> bool:
        """Whether a record of this partition may be put: it holds less than its share of the backlog."""
        held = self.tokens_by_partition()
        # One share is kept for a partition that has nothing here.
        return held.get(partition, 0) < fair_share([*held.values(), 0], self._backlog)

    def put(self, job: RecordJob) -> None:
        """Queue all frames of a record, however large; nothing happens once this is closed.

        Raises:
            ValueError: a frame alone is over the token budget.
        """
        slots = slots_of(job)
        for slot in slots:
            tokens, dna_tokens = slot.frame.tokens, len(slot.frame.dna_ids)
            if max(tokens, dna_tokens) > self.token_budget:
                raise ValueError(
                    f"frame {slot.index} of {job.source} has {tokens} protein and {dna_tokens} nucleotide tokens, "
                    f"over the token budget of {self.token_budget}"
                )
        with self._changed:
            if slots and not self._closed:
                is_first = not self._queues
                self._queues.setdefault(job.source.partition, _Queue()).add(slots)
                # Any other frame changes nothing for who waits: a batch is due by the age of the oldest one.
                if is_first or self._draining or self._is_full():
                    self._changed.notify_all()

    def next_batch(self, timeout: float) -> Batch | None:
        """Wait until a batch is due and take it; None after `timeout` seconds, or when closed."""
        deadline = Deadline.after(timeout, self._clock)
        with self._changed:
            while not self._closed:
                closed_by, due_in = self._due() if self._queues else (None, deadline.remaining())
                if closed_by:
                    return self._take(closed_by)
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
            for partition, waiting in list(self._queues.items()):
                begun = waiting.slots[0].record if waiting.slots[0].index > 0 else None
                kept = _Queue()
                kept.add(
                    slot for slot in waiting.slots if slot.record is begun or not unwanted(slot.record.source)
                )
                self._queues[partition] = kept
                if not kept.slots:
                    del self._queues[partition]
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
            self._queues.clear()
            self._changed.notify_all()

    def _take(self, closed_by: CloseReason) -> Batch:
        """Frames of all partitions in turn, as many as fit; those of one record stand together."""
        count, tokens, _ = how_many_fit((slot.frame for _, slot in self._in_turns()), self.token_budget)
        turns = [partition for partition, _ in islice(self._in_turns(), count + 1)]
        taken = Counter(turns[:count])
        slots = [
            slot for partition in self._queues for slot in self._queues[partition].take(taken[partition])
        ]
        order = list(self._queues)
        place = order.index(turns[count]) if len(turns) > count else 0  # who did not fit is first next time
        self._queues = {
            partition: self._queues[partition]
            for partition in order[place:] + order[:place]
            if self._queues[partition].slots
        }
        self._changed.notify_all()
        dna_tokens = sum(len(slot.frame.dna_ids) for slot in slots)
        return Batch(tuple(slots), tokens, closed_by, dna_tokens)

    def _in_turns(self) -> Iterator[tuple[Partition, JobSlot]]:
        """One frame of each partition, then the next of each, and so on."""
        waiting = {partition: iter(queue.slots) for partition, queue in self._queues.items()}
        while waiting:
            for partition, slots in list(waiting.items()):
                if (slot := next(slots, None)) is None:
                    del waiting[partition]
                else:
                    yield partition, slot

    def _is_full(self) -> bool:
        waiting = self._queues.values()
        tokens, dna_tokens = sum(q.tokens for q in waiting), sum(q.dna_tokens for q in waiting)
        return max(tokens, dna_tokens) > self.token_budget

    def _due(self) -> tuple[CloseReason | None, float]:
        """Why a batch is due now, or None and the seconds until one will be."""
        if self._is_full():
            return "full", 0.0
        if not self._device_idle():
            return None, math.inf
        if self._draining:
            return "drain", 0.0
        age = self._clock() - min(queue.waits_since for queue in self._queues.values())
        if age >= self._max_wait:
            return "deadline", 0.0
        idle = not self._preparing()
        if idle and age >= self._linger:
            return "idle", 0.0
        return None, (min(self._linger, self._max_wait) if idle else self._max_wait) - age
