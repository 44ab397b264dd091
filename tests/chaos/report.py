"""What a run was made of and what it found, as a person and a program read it."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tests.chaos.checker import Kind as Violated
from tests.chaos.checker import Violation
from tests.chaos.faults import Kind
from tests.chaos.injector import Kill
from tests.chaos.reader import Sighting
from tests.chaos.workers import Exit

_COUNTS: tuple[Violated, ...] = (
    "lost",
    "twice",
    "out_of_order",
    "skipped_without_event",
    "good_quarantined",
    "good_dead_lettered",
)
_MOST_PROBLEMS = 200  # of those told in the report; all were told when they were seen


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is made of; the seed decides all that is drawn."""

    seed: int
    records: int = 20_000
    faults: int = 40
    every: float = 8.0
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    protocol: Literal["classic", "consumer"] = "classic"
    kinds: tuple[Kind, ...] = tuple(Kind)


@dataclass(slots=True)
class Report:
    """What a run found; `problems` is empty if the service kept its promise.

    Attributes:
        skipped: records without an answer that were deleted, as the service reported.
        passed_over: faults that could not be done.
        memory_limit, memory_peak: what bounds each worker's memory, and the most bytes that one had in use.
    """

    options: Options
    published: int = 0
    answered: int = 0
    skipped: int = 0
    repeats: int = 0
    repeats_bound: int | None = None
    violations: list[Violation] = field(default_factory=list)
    hanging: list[str] = field(default_factory=list)
    uncommitted: dict[int, int] = field(default_factory=dict)
    breaker_opened: list[str] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)
    topics: dict[str, int] = field(default_factory=dict)
    memory_limit: str = ""
    memory_peak: int | None = None
    kills: list[Kill] = field(default_factory=list)
    recovery_s: list[float | None] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    reader: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        found = [str(violation) for violation in self.violations]
        found += [f"hanging: {text}" for text in self.hanging]
        found += [f"breaker opened: {line}" for line in self.breaker_opened]
        found += [f"uncommitted: {lag} records of input partition {n}" for n, lag in self.uncommitted.items()]
        found += [
            f"wrong exit: {exit_.worker} with {exit_.code} after {exit_.after}"
            for exit_ in self.exits
            if not exit_.right
        ]
        if self.repeats_bound is not None and self.repeats > self.repeats_bound:
            found.append(f"too many repeats: {self.repeats}, more than {self.repeats_bound} were in flight")
        return found

    def as_dict(self) -> dict[str, Any]:
        kinds = Counter(violation.kind for violation in self.violations)
        at_least_once = {"duplicates": self.repeats, "bound": self.repeats_bound}
        return {
            **asdict(self.options),
            "passed": not self.problems,
            "published": self.published,
            "answered": self.answered,
            "faults_by_kind": self.faults,
            "passed_over": self.passed_over,
            **{kind: kinds[kind] for kind in _COUNTS},
            "other_violations": sum(times for kind, times in kinds.items() if kind not in _COUNTS),
            "hanging": len(self.hanging),
            "skipped": self.skipped,
            **(at_least_once if self.repeats_bound is not None else {}),
            "kills": [
                {
                    "worker": kill.worker,
                    "in_flight": kill.in_flight,
                    "lag": kill.lag,
                    "in_transaction": kill.in_transaction,
                    "recovery_s": seconds,
                }
                for kill, seconds in zip(self.kills, self.recovery_s, strict=True)
            ],
            "exit_codes": [
                {"code": code, "after": after, "said": said, "times": times}
                for (code, after, said), times in Counter(
                    (e.code, e.after, e.said) for e in self.exits
                ).items()
            ],
            "reader": self.reader,
            "topics": self.topics,
            "memory": {"limit": self.memory_limit, "peak_bytes": self.memory_peak},
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "machine": platform.platform(),
            "problems": self.problems[:_MOST_PROBLEMS],
        }


def recovery(kill: Kill, sightings: list[Sighting]) -> float | None:
    """Seconds from a kill until an answer of one of its partitions came from another process; None if none did."""
    for sighting in sightings:
        floor = kill.floors.get(sighting.place)
        if floor is not None and sighting.offset >= floor and sighting.at >= kill.at:
            return round(sighting.at - kill.at, 2)
    return None
