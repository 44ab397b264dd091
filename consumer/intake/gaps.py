"""Tells input that was deleted before it was read from gaps in the offsets that held no message.

Offsets of a partition need not be consecutive: compaction takes messages out, and the marker that ends a transaction
has an offset. That loses nothing. But retention, or an administrator, may delete what the group has yet to read; then
the client goes on behind it by auto.offset.reset, without an error. In what is read both look alike. The log's first
offset tells them apart: a gap was deleted as far as it lies before that.

So the broker is asked where the log begins, once a turn of the loop for all gaps that came up in it, and nothing is
committed before it has said so: behind an offset that is committed nothing is looked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import structlog

from consumer.clock import Clock, monotonic
from consumer.errors import ServiceError
from consumer.types import Partition

log = structlog.get_logger(__name__)

LogStarts = Callable[[Sequence[Partition]], Mapping[Partition, int]]
"""The first offset of each partition's log; one that no broker tells in time is left out."""
OnGap = Literal["continue", "stop"]

_AGAIN_S = 1.0


class Skip(NamedTuple):
    """Offsets of a partition that were deleted before they were read: `first`, and all behind it before `end`."""

    partition: Partition
    first: int
    end: int


class Gaps:
    """All methods run on the consumer's thread.

    Args:
        log_starts: asks the broker; waits for half a second at most.
        report: called with each skip.
        on_gap: whether the service goes on after a skip.
        to_the_end: the client goes to the log's end when its offset is gone (auto.offset.reset=latest), not to its
            beginning: then the whole gap is a skip.
    """

    def __init__(
        self,
        log_starts: LogStarts,
        report: Callable[[Skip], None],
        on_gap: OnGap,
        to_the_end: bool = False,
        clock: Clock = monotonic,
    ) -> None:
        self._log_starts, self._report, self._clock = log_starts, report, clock
        self._stops, self._to_the_end = on_gap == "stop", to_the_end
        self._next: dict[Partition, int] = {}
        self._open: list[Skip] = []
        # Partitions that begin where their log begins, as soon as that is known.
        self._at_log_start: set[Partition] = set()
        self._due = 0.0

    def begin(self, partition: Partition, offset: int) -> None:
        """The partition is to be read from this offset on."""
        self._next[partition] = offset

    def begin_at_log_start(self, partition: Partition) -> None:
        """The partition is to be read from where its log begins now."""
        if not self._to_the_end:
            self._at_log_start.add(partition)

    def read(self, partition: Partition, offset: int) -> None:
        """This message was read; a gap before it is noted."""
        expected = self._next.get(partition, offset)
        self._next[partition] = offset + 1
        self._at_log_start.discard(partition)
        if offset <= expected:
            return
        self._open.append(Skip(partition, expected, offset))

    def forget(self, partitions: Iterable[Partition]) -> None:
        """These partitions belong to another member, or are read from another offset."""
        gone = set(partitions)
        for partition in gone:
            self._next.pop(partition, None)
        self._at_log_start -= gone
        self._open = [gap for gap in self._open if gap.partition not in gone]

    def settle(self) -> bool:
        """Ask what the gaps were, if that is due; False while it is not known: then nothing may be committed.

        Raises:
            ServiceError: input was deleted unread, and the service is to stop for that.
        """
        if (self._open or self._at_log_start) and self._clock() >= self._due:
            self._ask()
        return not self._open

    def _ask(self) -> None:
        starts = self._log_starts(sorted({gap.partition for gap in self._open} | self._at_log_start))
        for partition in self._at_log_start & starts.keys():
            self._next[partition] = starts[partition]
        self._at_log_start -= starts.keys()
        known, self._open = (
            [gap for gap in self._open if gap.partition in starts],
            [gap for gap in self._open if gap.partition not in starts],
        )
        if self._open or self._at_log_start:
            self._due = self._clock() + _AGAIN_S
        if self._open:
            log.warning("log_start_unknown", partitions=[str(gap.partition) for gap in self._open[:10]])
        skips = [skip for gap in known if (skip := self._skip(gap, starts[gap.partition])) is not None]
        for skip in skips:
            self._report(skip)
        if skips and self._stops:
            raise stopped_by(skips[0])

    def _skip(self, gap: Skip, log_start: int) -> Skip | None:
        if log_start <= gap.first:
            return None
        return gap if self._to_the_end else gap._replace(end=min(gap.end, log_start))


def stopped_by(skip: Skip) -> ServiceError:
    """The end of a service that is to stop when input was deleted before it was read."""
    (topic, number), first, end = skip
    return ServiceError(
        f"input was deleted before it was read: partition {number} of {topic}, offsets {first} to {end - 1}: keep "
        "input for longer (retention.ms, retention.bytes of the topic); to go on behind it, set "
        "VIRNUCPRO_ON_GAP=continue"
    )
