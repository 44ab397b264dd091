"""What a run was made of and what it found, as a person and a program read it."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tests.chaos.checker import Violation
from tests.chaos.injector import Kill
from tests.chaos.reader import Sighting
from tests.chaos.workers import Exit

_MOST_PROBLEMS = 200  # of those told in the report; all were told when they were seen


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is made of; the seed decides all that is drawn."""

    seed: int
    records: int = 20_000
    faults: int = 25
    every: float = 12.0
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    protocol: Literal["classic", "consumer"] = "classic"


@dataclass(slots=True)
class Report:
    """What a run found; `problems` is empty if the service kept its promise."""

    options: Options
    published: int = 0
    answered: int = 0
    repeats: int = 0
    repeats_bound: int | None = None
    violations: list[Violation] = field(default_factory=list)
    hanging: list[str] = field(default_factory=list)
    uncommitted: dict[int, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)
    recovery_s: list[float | None] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    reader: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        found = [str(violation) for violation in self.violations]
        found += [f"hanging: {text}" for text in self.hanging]
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
            "lost": kinds["lost"],
            "twice": kinds["twice"],
            "out_of_order": kinds["out_of_order"],
            "other_violations": sum(kinds.values()) - kinds["lost"] - kinds["twice"] - kinds["out_of_order"],
            "hanging": len(self.hanging),
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
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "machine": platform.platform(),
            "problems": self.problems[:_MOST_PROBLEMS],
        }


def recovery(kill: Kill, sightings: list[Sighting]) -> float | None:
    """Seconds from a kill until an answer of one of its partitions came from another process; None if none did."""
    for sighting in sightings:
        floor = kill.floors.get(sighting.place)
        if floor is not None and sighting.offset >= floor:
            return round(sighting.at - kill.at, 2)
    return None
