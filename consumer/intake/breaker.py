"""The circuit breaker: when most records fail for a reason of ours, or of a deployment, it is not the records.

A producer with a schema that this version does not know, a model that fails on everything: each would pour the whole
input into the dead-letter topic, from where it must be replayed. So when more than a share of the latest records was
refused for such a reason (`TELLING`), the service stops reading and says so (unready, `vnp_breaker_open`, one line in
the log). After a pause it reads a few for trial: if they pass it reads on, else it pauses again. What was in flight
when it opened is answered as usual, and says nothing about the trial.

A record that is refused for its own content (malformed, letters that are not nucleotide codes, too long) is cheap to
dead-letter and says nothing about the service: it is not counted, neither as refused nor as passed.

A publisher gone wrong in one partition stops no other: the share must be exceeded over all records, and as the mean
over the partitions. Beside those of the latest records, a partition counts in which a record passed within a pause. A
trial reads of each partition its share at most, and more only when the others have had time to give theirs: one with a
long backlog cannot fail it for all.

The idea is arroyo's (`arroyo/dlq.py`, `DlqLimit`); there the limit ends the process.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import structlog

from consumer.clock import Clock, monotonic
from consumer.types import Partition, Source
from schemas import Reason

log = structlog.get_logger(__name__)

TELLING: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.UNKNOWN_SCHEMA: "deploy a version that knows the schema, or let the publisher write one that this knows",
        Reason.INFERENCE_FAILED: "see batch_failed in the log: mend the model, its device or its memory, and restart",
        Reason.QUARANTINED: "see why the process died with these records on the device: memory, driver or model",
    }
)
"""The reasons that open the breaker, each with what to do about it."""

_TRIAL = 10  # a trial is this part of the window
_OTHERS_S = 1.0  # how long a partition that gave its share of a trial waits for the others


class Breaker:
    """Watches the outcomes of records, on the thread of the loop.

    Args:
        window: so many of the latest records are looked at; it never opens before it has seen as many.
        share: it opens when more than this share of them was refused; with 1 it never does.
        pause_s: seconds from one trial to the next.
    """

    def __init__(self, window: int, share: float, pause_s: float, clock: Clock = monotonic) -> None:
        self._window, self._share, self._pause_s, self._clock = window, share, pause_s, clock
        self._outcomes = _Outcomes()
        self._passed_at: dict[Partition, float] = {}
        # None while closed.
        self._next_trial: float | None = None
        # More records may be read for this trial.
        self._left = 0
        # Read for this trial since the shares were dealt out, without those that said nothing; and when the last was.
        self._read: Counter[Partition] = Counter()
        self._read_at = -math.inf
        # Read for a trial, and not finished.
        self._on_trial: set[Source] = set()

    @property
    def is_open(self) -> bool:
        """Most records failed, and no trial has passed since."""
        return self._next_trial is not None

    def room(self) -> int | None:
        """How many records may be read now; None is any number. Begins a trial when one is due."""
        if self._next_trial is None:
            return None
        if self._clock() >= self._next_trial:
            # A trial that is not full yet goes on.
            self._next_trial = self._clock() + self._pause_s
            self._left = self._trial
            self._read.clear()
        elif self._clock() >= self._read_at + _OTHERS_S:
            self._read.clear()
        return self._left

    def has_enough_of(self, partition: Partition, assigned: int) -> bool:
        """Whether a trial has read its share of this partition, one of so many: the others have their turn."""
        return self.is_open and self._read[partition] >= math.ceil(self._trial / max(1, assigned))

    def admitted(self, source: Source) -> None:
        """A record was read."""
        if self._left:
            self._left -= 1
            self._read[source.partition] += 1
            self._read_at = self._clock()
            self._on_trial.add(source)

    def outcome(self, source: Source, reason: Reason | None) -> None:
        """A record is finished; `reason` says why it was refused, None that it was not."""
        says_nothing = reason is not None and reason not in TELLING
        if self.is_open:
            if source not in self._on_trial:
                return
            self._on_trial.remove(source)
            self._left += says_nothing
            self._read[source.partition] -= says_nothing
        if says_nothing:
            return
        if reason is None:
            self._passed_at[source.partition] = self._clock()
        self._outcomes.add(source.partition, reason, self._window)
        if len(self._outcomes) < (self._trial if self.is_open else self._window):
            return
        if self._most_are_refused():
            self._open()
        elif self.is_open:
            self._next_trial = None
            self._begin()
            log.info("breaker_closed")

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Records in flight of these partitions are dropped: others are read for the trial in their place."""
        gone = set(partitions)
        dropped = {source for source in self._on_trial if source.partition in gone}
        self._on_trial -= dropped
        self._left += len(dropped)
        for partition in gone:
            self._passed_at.pop(partition, None)
            self._read.pop(partition, None)

    @property
    def _trial(self) -> int:
        return max(1, self._window // _TRIAL)

    def _most_are_refused(self) -> bool:
        if self._outcomes.refused <= self._share * len(self._outcomes):
            return False
        since = self._clock() - self._pause_s
        sound = {partition for partition, at in self._passed_at.items() if at > since}
        shares = self._outcomes.shares()
        return sum(shares.values()) > self._share * len(sound | shares.keys())

    def _open(self) -> None:
        reasons = self._outcomes.reasons()
        fields = {
            "refused": self._outcomes.refused,
            "of": len(self._outcomes),
            "reasons": {reason.value: count for reason, count in reasons},
            "next_trial_in_s": self._pause_s,
        }
        if self.is_open:
            log.warning("breaker_trial_failed", **fields)
        else:
            log.error(
                "breaker_opened",
                **fields,
                partitions=sorted(
                    partition.number for partition, share in self._outcomes.shares().items() if share
                ),
                cure=f"{TELLING[reasons[0][0]]}; reading goes on by itself once a trial passes, or at once after a "
                "restart; VIRNUCPRO_BREAKER_SHARE=1 dead-letters them all",
            )
        self._next_trial = self._clock() + self._pause_s
        self._passed_at.clear()
        self._begin()

    def _begin(self) -> None:
        """Whatever comes next is judged without what was before, but for the partitions that passed in a trial."""
        self._left = 0
        self._read.clear()
        self._on_trial.clear()
        self._outcomes = _Outcomes()


class _Outcomes:
    """The latest outcomes, counted by partition."""

    def __init__(self) -> None:
        self._latest: deque[tuple[Partition, Reason | None]] = deque()
        self._read: Counter[Partition] = Counter()
        self._refused: Counter[Partition] = Counter()
        self.refused = 0

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, partition: Partition, reason: Reason | None, most: int) -> None:
        """Enter one, and drop the oldest of more than `most`."""
        self._latest.append((partition, reason))
        self._count(partition, reason, 1)
        if len(self._latest) > most:
            self._count(*self._latest.popleft(), -1)

    def shares(self) -> dict[Partition, float]:
        """Of each partition that has outcomes: the share that was refused, 0 to 1."""
        return {partition: self._refused[partition] / read for partition, read in self._read.items() if read}

    def reasons(self) -> list[tuple[Reason, int]]:
        """The reasons and how often each was given, the most frequent first."""
        return Counter(reason for _, reason in self._latest if reason is not None).most_common()

    def _count(self, partition: Partition, reason: Reason | None, step: int) -> None:
        self._read[partition] += step
        self._refused[partition] += step * (reason is not None)
        self.refused += step * (reason is not None)
