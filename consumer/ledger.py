"""The ledger of offsets: which input messages are in flight, and how far each partition may be committed.

Kafka remembers one number for each partition, the offset to read from after a restart. Records finish out of
order (a short one overtakes a long one, a partition's batch fails and is tried again), so the service keeps,
for each partition, the messages it has read and not yet delivered, in offset order:

    offset     40        41        42        43        44
    state    finished  finished  in flight finished  in flight
             `------ prefix ---'  ^ the committable offset is 42

Only the *prefix*, the leading run of finished messages, is released: its predictions are produced in offset
order, and once they are delivered the offset of the first message behind it is committed, or the consumer's
position when nothing is behind it. Offsets need not be consecutive: compaction and transaction markers leave
gaps, and the position, not "last offset + 1", steps over a marker at the end.

An *epoch* is one assignment of one partition to this process. It is part of every message's `Source`. When a
partition is revoked its ledger is dropped; when it comes back it gets a new epoch, and a result that still
carries the old one (it was on the GPU meanwhile) is stale: another member may have processed it already. A log
that is truncated (a broker came back without its newest records, a topic was recreated) begins an epoch too: other
messages may have the same offsets now, while what was read before the truncation stays in flight.

All methods run on the thread that owns the consumer; `is_wanted` alone may be called from any thread.
The model is Confluent's parallel-consumer (`PartitionState.java`), without its locks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from consumer.types import Finished, Outcome, Partition, RawMessage, Source


@dataclass(slots=True)
class Entry:
    """One message in flight; `outcome` is None until it is finished."""

    message: RawMessage
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """What may be delivered now: finished messages in offset order per partition, and what to commit after."""

    entries: tuple[Entry, ...]
    offsets: Mapping[Partition, int]


@dataclass(slots=True)
class _PartitionLedger:
    epoch: int
    entries: dict[int, Entry] = field(default_factory=dict)  # by offset; insertion order is offset order
    last_received: int = -1
    revoking: bool = False
    bytes: int = 0

    def prefix(self, read_by: float) -> Iterable[Entry]:
        for entry in self.entries.values():
            if entry.message.received_at > read_by:
                return
            if entry.outcome is None:
                return
            yield entry


class Ledger:
    """Every assigned partition's messages in flight."""

    def __init__(self) -> None:
        self._partitions: dict[Partition, _PartitionLedger] = {}
        self._epochs: dict[Partition, int] = {}
        self._turn = 0
        # Only what was read by then is released (monotonic seconds).
        self._confirmed_at = math.inf
        self.records = 0
        self.bytes = 0
        self._finished = 0

    # ---- assignment -------------------------------------------------------------------------------------------

    @property
    def assigned(self) -> list[Partition]:
        return list(self._partitions)

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Begin a new epoch of each partition. Whatever an older epoch still held is forgotten."""
        for partition in partitions:
            self.drop([partition])
            self._epochs[partition] = epoch = self._epochs.get(partition, 0) + 1
            self._partitions[partition] = _PartitionLedger(epoch)

    def revoking(self, partitions: Iterable[Partition]) -> None:
        """These partitions are about to go: what has not been started need not be (`is_wanted`)."""
        for partition in partitions:
            if ledger := self._partitions.get(partition):
                ledger.revoking = True

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions: their messages in flight will be read again by whoever owns them next."""
        for partition in partitions:
            if ledger := self._partitions.pop(partition, None):
                self._forget(ledger, ledger.entries.values())

    def cut(self, partition: Partition, offset: int) -> int:
        """The partition is read from `offset` again: forget what was read from there on; the epoch that begins."""
        ledger = self._partitions[partition]
        gone = [known for known in ledger.entries if known >= offset]
        self._forget(ledger, [ledger.entries.pop(known) for known in gone])
        self._epochs[partition] = ledger.epoch = ledger.epoch + 1
        ledger.last_received = offset - 1
        return ledger.epoch

    def held(self) -> dict[Partition, tuple[int, int]]:
        """Records and bytes in flight of each assigned partition."""
        return {
            partition: (len(ledger.entries), ledger.bytes) for partition, ledger in self._partitions.items()
        }

    def epoch(self, partition: Partition) -> int | None:
        """The current epoch, or None while the partition is not assigned."""
        ledger = self._partitions.get(partition)
        return ledger.epoch if ledger else None

    def is_current(self, source: Source) -> bool:
        """Is this very message in flight? Safe from any thread (two dict look-ups)."""
        ledger = self._partitions.get(source.partition)
        entry = None if ledger is None else ledger.entries.get(source.offset)
        return entry is not None and entry.message.source == source

    def is_wanted(self, source: Source) -> bool:
        """Is it still worth starting this message? Safe from any thread."""
        ledger = self._partitions.get(source.partition)
        return ledger is not None and not ledger.revoking and self.is_current(source)

    # ---- messages ---------------------------------------------------------------------------------------------

    def receive(self, message: RawMessage) -> None:
        """Enter a message that was just read.

        Raises:
            ValueError: the message is of no current epoch, or not behind the last one received.
        """
        ledger = self._partitions.get(message.source.partition)
        if ledger is None or ledger.epoch != message.source.epoch:
            raise ValueError(f"{message.source} is not of a partition assigned now")
        if message.source.offset <= ledger.last_received:
            raise ValueError(f"{message.source} comes after offset {ledger.last_received} of the same epoch")
        ledger.last_received = message.source.offset
        ledger.entries[message.source.offset] = Entry(message)
        self.records += 1
        size = message.size
        self.bytes += size
        ledger.bytes += size

    def went_back(self, partition: Partition, offset: int) -> bool:
        """Whether this offset is at or before one received in this epoch (the log was truncated or reset)."""
        ledger = self._partitions.get(partition)
        return ledger is not None and offset <= ledger.last_received

    def finish(self, finished: Finished) -> Entry | None:
        """Record an outcome; returns the entry, or None if the result is stale (an old epoch) or known."""
        if not self.is_current(finished.source):
            return None
        entry = self._partitions[finished.source.partition].entries[finished.source.offset]
        if entry.outcome is not None:
            return None
        entry.outcome = finished.outcome
        self._finished += 1
        return entry

    def first(self, partition: Partition) -> RawMessage | None:
        """The message of the lowest offset in flight of an assigned partition, or None if there is none."""
        ledger = self._partitions.get(partition)
        entry = None if ledger is None else next(iter(ledger.entries.values()), None)
        return None if entry is None else entry.message

    def last_received(self, partition: Partition) -> int:
        """The highest offset received in this epoch, -1 if there is none."""
        ledger = self._partitions.get(partition)
        return -1 if ledger is None else ledger.last_received

    # ---- delivery ---------------------------------------------------------------------------------------------

    def confirm(self, read_by: float) -> None:
        """Messages read until then (monotonic seconds) are of the topic that the group reads, and may be released."""
        self._confirmed_at = read_by

    def release(self, position: Callable[[Partition], int], limit: int) -> Release:
        """The finished prefix of every partition, at most about `limit` messages, with the offsets to commit.

        `position` gives the consumer's position: the offset behind the last message read.
        """
        entries: list[Entry] = []
        offsets: dict[Partition, int] = {}
        self._turn += 1  # with a limit that is reached, each partition is first in its turn
        order = list(self._partitions)
        first = self._turn % max(1, len(order))
        for partition in order[first:] + order[:first]:
            ledger = self._partitions[partition]
            prefix = list(islice(ledger.prefix(self._confirmed_at), max(0, limit - len(entries))))
            if not prefix:
                continue
            entries += prefix
            behind = next(islice(ledger.entries, len(prefix), None), None)
            offsets[partition] = (
                max(position(partition), ledger.last_received + 1) if behind is None else behind
            )
        return Release(tuple(entries), offsets)

    @property
    def is_delivered(self) -> bool:
        """Whether nothing is left that could be released, confirmed or not."""
        return all(entry.outcome is None for entry in self._first_entries())

    @property
    def is_unconfirmed(self) -> bool:
        """Whether something could be released if it were confirmed."""
        return any(
            entry.outcome is not None and entry.message.received_at > self._confirmed_at
            for entry in self._first_entries()
        )

    @property
    def is_finished(self) -> bool:
        """Whether something is in flight, and all of it is finished."""
        return 0 < self.records == self._finished

    def settle(self, release: Release) -> None:
        """Forget what has been delivered. Entries of partitions that were revoked meanwhile are skipped."""
        for entry in release.entries:
            source = entry.message.source
            if self.is_current(source):
                ledger = self._partitions[source.partition]
                self._forget(ledger, [ledger.entries.pop(source.offset)])

    def oldest_received_at(self) -> float | None:
        """When the message longest in flight was polled (monotonic seconds), or None if there is none."""
        return min((entry.message.received_at for entry in self._first_entries()), default=None)

    def _first_entries(self) -> Iterable[Entry]:
        """Of each partition the entry of the lowest offset."""
        for ledger in self._partitions.values():
            yield from islice(ledger.entries.values(), 1)

    def _forget(self, ledger: _PartitionLedger, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.records -= 1
            self._finished -= entry.outcome is not None
            size = entry.message.size
            self.bytes -= size
            ledger.bytes -= size
