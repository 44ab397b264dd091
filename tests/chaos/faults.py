"""What goes wrong in a run, and when: drawn from a seed before it begins."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["sigkill", "sigterm", "sigstop", "add_worker", "broker_restart", "broker_kill"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SESSION_S = 6.0
_WEIGHTS: dict[Kind, int] = {
    "sigkill": 6,
    "sigterm": 3,
    "sigstop": 4,
    "add_worker": 2,
    "broker_restart": 2,
    "broker_kill": 3,
}
_PAUSES: dict[Kind, tuple[float, float]] = {
    "sigkill": (0.5, 8.0),  # until it is started again: before its session has ended, or after
    "sigterm": (0.0, 3.0),
    "sigstop": (SESSION_S + 1.5, SESSION_S + 7.0),  # with an open transaction's 10 s, or not
    "add_worker": (4.0, 9.0),  # until it goes again
    "broker_restart": (0.0, 3.0),  # how long it is away, beside its own start
    "broker_kill": (0.0, 3.0),
}
_BROKER_AWAY_S = 6.0  # how long the thread that does faults is busy with it
_AIMED = 0.5  # share of the kills and stops


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    `at` is in seconds from the beginning, `prefer` the order in which workers are its victim, `pause` the seconds until
    it is over. An `aimed` one hits a worker in the middle of a transaction, if it can.
    """

    kind: Kind
    at: float
    prefer: tuple[int, ...]
    pause: float
    aimed: bool


def draw(seed: int, count: int, every: float, workers: int) -> list[Fault]:
    """So many faults, one in every `every` seconds: each kind once, as far as they go, then as they come."""
    rng = random.Random(f"faults {seed}")
    kinds = rng.sample(KINDS, len(KINDS))[:count]
    kinds += rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=count - len(kinds))
    rng.shuffle(kinds)
    begins = itertools.accumulate((_slot(kind, every) for kind in kinds), initial=0.0)
    return [
        Fault(
            kind,
            begin + every * rng.uniform(0.0, 0.6),
            tuple(rng.sample(range(workers), workers)),
            rng.uniform(*_PAUSES[kind]),
            rng.random() < _AIMED,
        )
        for kind, begin in zip(kinds, begins, strict=False)
    ]


def duration(faults: list[Fault], every: float) -> float:
    """Seconds that these faults take, and what comes of the last."""
    return sum(_slot(fault.kind, every) for fault in faults)


def _slot(kind: Kind, every: float) -> float:
    return every + (_BROKER_AWAY_S if kind in ("broker_restart", "broker_kill") else 0.0)
