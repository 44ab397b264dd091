"""What goes wrong in a run: drawn from a seed before it begins, then done at its time."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal, get_args

from tests.chaos.probe import NoAnswer, Probe
from tests.chaos.reader import Place
from tests.chaos.workers import Supervisor, Worker
from tests.kafka.kraft import KraftBroker

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
_MID_FLIGHT_S = 3.0
_ASK_S = 3.0
_PATIENCE, _AGAIN_S = 20, 1.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when, seconds from the beginning; `prefer` is the order in which workers are its victim."""

    kind: Kind
    at: float
    prefer: tuple[int, ...]
    pause: float


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
        )
        for kind, begin in zip(kinds, begins, strict=False)
    ]


def duration(faults: list[Fault], every: float) -> float:
    """Seconds that these faults take, and what comes of the last."""
    return sum(_slot(fault.kind, every) for fault in faults)


def _slot(kind: Kind, every: float) -> float:
    return every + (_BROKER_AWAY_S if kind in ("broker_restart", "broker_kill") else 0.0)


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker's death by SIGKILL and what it left; None or empty where the broker did not answer.

    `lag` are the records of its partitions that were published and not committed, so all that can be done again;
    `floors` are the ends of its output partitions once it was dead: what is behind them, another one wrote.
    """

    worker: str
    at: float
    in_flight: int | None
    partitions: tuple[int, ...]
    lag: int | None = None
    in_transaction: bool | None = None
    floors: dict[Place, int] = field(default_factory=dict)


class Agenda:
    """What is to be done at which time (monotonic)."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._entries, (at, next(self._numbers), action))

    def run_due(self) -> None:
        while self._entries and self._entries[0][0] <= time.monotonic():
            heapq.heappop(self._entries)[2]()


class Injector:
    """Does faults, on the main thread: brokers die with the thread that starts them.

    Args:
        outputs: names of the output topics.
        max_in_flight: most records that a worker holds.
        tell: told in words what is done.
    """

    def __init__(
        self,
        broker: KraftBroker,
        supervisor: Supervisor,
        probe: Probe,
        outputs: tuple[str, ...],
        partitions: int,
        max_in_flight: int,
        agenda: Agenda,
        tell: Callable[[str], None],
    ) -> None:
        self._broker, self._supervisor, self._probe = broker, supervisor, probe
        self._outputs, self._partitions, self._max_in_flight = outputs, partitions, max_in_flight
        self._agenda, self._tell = agenda, tell
        self._added = itertools.count()
        self.kills: list[Kill] = []
        self.done: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.passed_over = 0
        self.repeats_bound = 0
        """How many answers the faults so far may have made come twice, at least once given."""

    def do(self, fault: Fault, patience: int = _PATIENCE) -> None:
        """Do it now; what belongs to it and comes later goes into the agenda.

        A fault that needs a victim waits until there is one: `patience` is how often it tries again.
        """
        match fault.kind:
            case "broker_restart" | "broker_kill":
                self._broker_away(fault)
            case "add_worker":
                self._add(fault)
            case "sigkill" | "sigterm" | "sigstop":
                victim = self._victim(fault)
                if victim is None:
                    self._later(fault, patience)
                    return
                {"sigkill": self._kill, "sigterm": self._terminate, "sigstop": self._suspend}[fault.kind](
                    victim, fault.pause
                )
        self.done[fault.kind] += 1

    def _later(self, fault: Fault, patience: int) -> None:
        if patience:
            self._agenda.add(time.monotonic() + _AGAIN_S, lambda: self.do(fault, patience - 1))
        else:
            self._tell(f"{fault.kind} passed over: no worker is steady")
            self.passed_over += 1

    def _victim(self, fault: Fault) -> Worker | None:
        """A steady worker; one with records in flight, if the first such one gets any soon."""
        named = (self._supervisor.workers.get(worker_name(number)) for number in fault.prefer)
        victim = next((worker for worker in named if worker is not None and worker.steady), None)
        if victim is None:
            return None
        deadline = time.monotonic() + _MID_FLIGHT_S
        while victim.steady and not victim.in_flight() and time.monotonic() < deadline:
            time.sleep(0.01)
        return victim if victim.steady else None

    def _kill(self, victim: Worker, pause: float) -> None:
        in_flight = victim.in_flight()
        partitions = tuple(sorted(victim.partitions()))
        self._supervisor.kill(victim, restart_after=pause)
        kill = self._aftermath(Kill(victim.name, time.monotonic(), in_flight, partitions))
        self.kills.append(kill)
        self.repeats_bound += self._max_in_flight if kill.lag is None else min(kill.lag, self._max_in_flight)
        holding = ", in a transaction" if kill.in_transaction else ""
        self._tell(f"SIGKILL {victim.name} with {in_flight} in flight of {list(partitions)}{holding}")

    def _aftermath(self, kill: Kill) -> Kill:
        places = [(topic, number) for topic in self._outputs for number in kill.partitions]
        deadline = time.monotonic() + _ASK_S
        while time.monotonic() < deadline:
            try:
                floors = self._probe.ends(places)
                visible = self._probe.ends(places, committed_only=True)
                lag = sum(self._probe.lag(kill.partitions).values())
            except NoAnswer:
                continue
            open_ones = any(visible[place] < floors[place] for place in places)
            return Kill(kill.worker, kill.at, kill.in_flight, kill.partitions, lag, open_ones, floors)
        return kill

    def _terminate(self, victim: Worker, pause: float) -> None:
        self._tell(f"SIGTERM {victim.name}")
        self._supervisor.terminate(victim, restart_after=pause)

    def _suspend(self, victim: Worker, pause: float) -> None:
        in_flight = victim.in_flight()
        self.repeats_bound += self._at_stake(victim.partitions(), 1)
        self._supervisor.suspend(victim)
        self._tell(f"SIGSTOP {victim.name} for {pause:.1f} s with {in_flight} in flight")

        def resume() -> None:
            self._supervisor.resume(victim)
            self._tell(f"SIGCONT {victim.name}")

        self._agenda.add(time.monotonic() + pause, resume)

    def _add(self, fault: Fault) -> None:
        added = self._supervisor.add(f"guest-{next(self._added)}", kept=False)
        self._tell(f"{added.name} joins for {fault.pause:.1f} s")

        def leave() -> None:
            if added.steady:
                self._tell(f"SIGTERM {added.name}")
                self._supervisor.terminate(added)

        self._agenda.add(time.monotonic() + fault.pause, leave)

    def _broker_away(self, fault: Fault) -> None:
        """Repeats come of it when members lose their partitions meanwhile with answers that are not committed."""
        self.repeats_bound += self._at_stake(range(self._partitions), len(self._supervisor.workers))
        self._supervisor.broker_went()
        began = time.monotonic()
        if fault.kind == "broker_kill":
            self._broker.kill()
        else:
            self._broker.stop()
        time.sleep(fault.pause)
        self._broker.start()
        self._tell(f"{fault.kind}: it was away for {time.monotonic() - began:.1f} s")

    def _at_stake(self, partitions: Collection[int], workers: int) -> int:
        """At most how many records of these partitions are in flight with so many workers."""
        most = self._max_in_flight * workers
        try:
            return min(most, sum(self._probe.lag(partitions).values()))
        except NoAnswer:
            return most


def worker_name(number: int) -> str:
    return f"worker-{number}"
