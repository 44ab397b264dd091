"""Messages that wait for preparation: partitions in turns, and large messages on a thread of their own.

A partition that has enough frames waiting for a batch is passed over until it has not, so that a backlog waits here, as
raw bytes, and not as frames. Preparing a genome takes seconds. Large messages are therefore given out to one thread
only, and the others are free for everything else.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from consumer.types import Partition, RawMessage, Source

LARGE_BYTES = 64 << 10
"""A message with a larger value is prepared on the thread for large ones; a smaller one takes 20 ms at most."""


class Waiting(NamedTuple):
    """A message, and how often it was tried already."""

    message: RawMessage
    tries: int = 0

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return len(self.message.value or b"")

    @property
    def is_large(self) -> bool:
        return self.size > LARGE_BYTES


class Inbox:
    """A bounded queue of messages for each partition. All methods are safe from any thread.

    Args:
        max_records: the most messages that wait.
        has_room: whether frames of this partition may be added to those that wait for a batch. Call `notify` when that
            changes.
    """

    def __init__(self, max_records: int, has_room: Callable[[Partition], bool]) -> None:
        self._max_records, self._has_room = max_records, has_room
        self._queues: OrderedDict[Partition, deque[Waiting]] = OrderedDict()
        self._bytes: dict[Partition, int] = {}
        self._records = 0
        self._closed = False
        self._lock = threading.RLock()
        # Threads for large messages and those for others are woken apart, and one for each message.
        self._waiters = {large: threading.Condition(self._lock) for large in (False, True)}

    @property
    def bytes_by_partition(self) -> Mapping[Partition, int]:
        """Bytes of the values that wait, of each partition that has any."""
        with self._lock:
            return dict(self._bytes)

    def put(self, waiting: Waiting) -> None:
        """Add a message; raises queue.Full when `max_records` wait."""
        with self._lock:
            if self._records >= self._max_records:
                raise queue.Full
            partition = waiting.message.source.partition
            self._queues.setdefault(partition, deque()).append(waiting)
            self._bytes[partition] = self._bytes.get(partition, 0) + waiting.size
            self._records += 1
            self._waiters[waiting.is_large].notify()

    def take(self, large: bool, timeout: float) -> Waiting | None:
        """The next message of the partition whose turn it is; None after `timeout` seconds, or when closed.

        Args:
            large: take large messages only, else only those that are not.
        """
        with self._lock:
            self._waiters[large].wait_for(lambda: self._closed or self._next(large) is not None, timeout)
            partition = None if self._closed else self._next(large)
            if partition is None:
                return None
            queued = self._queues[partition]
            waiting = queued.popleft()
            if queued and queued[0].is_large != large:
                self._waiters[not large].notify_all()
            self._queues.move_to_end(partition)
            self._bytes[partition] -= waiting.size
            self._records -= 1
            self._forget_if_empty(partition)
            return waiting

    def notify(self) -> None:
        """Look again: what `has_room` says may have changed."""
        self._wake_all()

    def discard(self, unwanted: Callable[[Source], bool]) -> int:
        """Drop the messages that are no longer wanted; returns how many."""
        with self._lock:
            before = self._records
            for partition, waiting in list(self._queues.items()):
                kept = deque(each for each in waiting if not unwanted(each.message.source))
                self._records -= len(waiting) - len(kept)
                self._queues[partition] = kept
                self._bytes[partition] = sum(each.size for each in kept)
                self._forget_if_empty(partition)
            self._wake_all()
            return before - self._records

    def close(self) -> None:
        """Wake the threads that wait; nothing is given out any more."""
        with self._lock:
            self._closed = True
            self._wake_all()

    def _wake_all(self) -> None:
        with self._lock:
            for waiters in self._waiters.values():
                waiters.notify_all()

    def _next(self, large: bool) -> Partition | None:
        for partition, waiting in self._queues.items():
            if waiting[0].is_large == large and self._has_room(partition):
                return partition
        return None

    def _forget_if_empty(self, partition: Partition) -> None:
        if not self._queues[partition]:
            del self._queues[partition], self._bytes[partition]
