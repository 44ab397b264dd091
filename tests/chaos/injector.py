"""Does the faults of a run, at their time."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from tests.chaos.faults import KINDS, Fault
from tests.chaos.probe import NoAnswer, Probe
from tests.chaos.reader import Place
from tests.chaos.workers import Supervisor, Worker, worker_name
from tests.support.kafka.kraft import KraftBroker

_ASK_S = 3.0
_PATIENCE, _AGAIN_S = 12, 1.0
_AIMS, _BETWEEN_AIMS_S = 20, 0.1


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
        tell: told in words what is done.
        outputs: names of the output topics.
        max_in_flight: most records that a worker holds.
        transactional: whether the workers use transactions.
    """

    def __init__(
        self,
        broker: KraftBroker,
        supervisor: Supervisor,
        probe: Probe,
        agenda: Agenda,
        tell: Callable[[str], None],
        *,
        outputs: tuple[str, ...],
        partitions: int,
        max_in_flight: int,
        transactional: bool,
    ) -> None:
        self._broker, self._supervisor, self._probe = broker, supervisor, probe
        self._outputs, self._partitions, self._max_in_flight = outputs, partitions, max_in_flight
        self._transactional, self._agenda, self._tell = transactional, agenda, tell
        self._added = itertools.count()
        self.kills: list[Kill] = []
        self.done: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.passed_over = 0
        self.repeats_bound = 0
        """How many answers the faults so far may have made come twice, at least once given."""

    def do(self, fault: Fault, patience: int = _PATIENCE) -> None:
        """Do it now; what belongs to it and comes later goes into the agenda.

        A fault that needs a busy victim waits until there is one: `patience` is how often it tries again.
        """
        match fault.kind:
            case "broker_restart" | "broker_kill":
                self._broker_away(fault)
            case "add_worker":
                self._add(fault)
            case "sigkill" | "sigterm" | "sigstop":
                victim = self._victim(fault, any_will_do=patience == 0)
                if victim is None:
                    self._later(fault, patience)
                    return
                {"sigkill": self._kill, "sigterm": self._terminate, "sigstop": self._suspend}[fault.kind](
                    victim, fault
                )
        self.done[fault.kind] += 1

    def _later(self, fault: Fault, patience: int) -> None:
        if patience:
            self._agenda.add(time.monotonic() + _AGAIN_S, lambda: self.do(fault, patience - 1))
        else:
            self._tell(f"{fault.kind} passed over: no worker is steady")
            self.passed_over += 1

    def _victim(self, fault: Fault, *, any_will_do: bool) -> Worker | None:
        """A steady worker with records in flight; after long waiting one without."""
        named = (self._supervisor.workers.get(worker_name(number)) for number in fault.prefer)
        steady = [worker for worker in named if worker is not None and worker.steady]
        busy = (worker for worker in steady if worker.in_flight())
        return next(busy, steady[0] if steady and any_will_do else None)

    # ---- faults of a worker -----------------------------------------------------------------------------------

    def _kill(self, victim: Worker, fault: Fault) -> None:
        partitions = tuple(sorted(victim.partitions()))
        in_flight = self._catch(victim, partitions, fault)
        self._supervisor.kill(victim, restart_after=fault.pause)
        kill = self._aftermath(Kill(victim.name, time.monotonic(), in_flight, partitions))
        self.kills.append(kill)
        self.repeats_bound += self._max_in_flight if kill.lag is None else min(kill.lag, self._max_in_flight)
        holding = ", in a transaction" if kill.in_transaction else ""
        self._tell(f"SIGKILL {victim.name} with {in_flight} in flight of {list(partitions)}{holding}")

    def _suspend(self, victim: Worker, fault: Fault) -> None:
        partitions = victim.partitions()
        self.repeats_bound += self._at_stake(partitions, 1)
        in_flight = self._catch(victim, partitions, fault)
        self._supervisor.suspend(victim)
        self._tell(f"SIGSTOP {victim.name} for {fault.pause:.1f} s with {in_flight} in flight")

        def resume() -> None:
            self._supervisor.resume(victim)
            self._tell(f"SIGCONT {victim.name}")

        self._agenda.add(time.monotonic() + fault.pause, resume)

    def _terminate(self, victim: Worker, fault: Fault) -> None:
        self._tell(f"SIGTERM {victim.name}")
        self._supervisor.terminate(victim, restart_after=fault.pause)

    def _add(self, fault: Fault) -> None:
        added = self._supervisor.add(f"guest-{next(self._added)}", kept=False)
        self._tell(f"{added.name} joins for {fault.pause:.1f} s")

        def leave() -> None:
            if added.steady:
                self._tell(f"SIGTERM {added.name}")
                self._supervisor.terminate(added)
            elif added.life is not None:
                self._agenda.add(time.monotonic() + _AGAIN_S, leave)

        self._agenda.add(time.monotonic() + fault.pause, leave)

    def _catch(self, victim: Worker, partitions: Collection[int], fault: Fault) -> int | None:
        """How many records it holds; an aimed fault finds it frozen with a transaction open, if one comes by soon.

        Transactions last for milliseconds, so it is frozen, looked at, and let go on if it has none.
        """
        in_flight = victim.in_flight()
        if not fault.aimed or not self._transactional:
            return in_flight
        for _ in range(_AIMS):
            self._supervisor.freeze(victim)
            try:
                if self._probe.open_transactions(self._places(partitions)):
                    return in_flight
            except NoAnswer:
                pass
            self._supervisor.thaw(victim)
            time.sleep(_BETWEEN_AIMS_S)
            in_flight = victim.in_flight()
        return in_flight

    def _places(self, partitions: Collection[int]) -> list[Place]:
        return [(topic, number) for topic in self._outputs for number in partitions]

    def _aftermath(self, kill: Kill) -> Kill:
        places = self._places(kill.partitions)
        deadline = time.monotonic() + _ASK_S
        while time.monotonic() < deadline:
            try:
                floors = self._probe.ends(places)
                holding = self._probe.open_transactions(places)
                lag = sum(self._probe.lag(kill.partitions).values())
            except NoAnswer:
                continue
            return replace(kill, lag=lag, in_transaction=holding, floors=floors)
        return kill

    # ---- faults of the broker ---------------------------------------------------------------------------------

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
        """The most records of these partitions that are in flight with this number of workers."""
        most = self._max_in_flight * workers
        try:
            return min(most, sum(self._probe.lag(partitions).values()))
        except NoAnswer:
            return most
