"""Does the faults of a run, at their time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from tests.chaos.faults import Fault, Kind
from tests.chaos.node_faults import NodeFaults
from tests.chaos.probe import NoAnswer
from tests.chaos.reader import Place
from tests.chaos.scene import OUTPUTS, Scene
from tests.chaos.topic_faults import TopicFaults
from tests.chaos.workers import Worker, worker_name

_ASK_S = 3.0
_PATIENCE, _AGAIN_S = 60, 1.0
_AIMS, _BETWEEN_AIMS_S = 20, 0.1
_CUT_AFTER_S, _CUTS = 2.5, 6
"""Seconds from a worker's death until its backlog is cut, so that there is one; and how often that is tried."""


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


class Injector:
    """Does faults, on the main thread: brokers die with the thread that starts them.

    Args:
        max_in_flight: most records that a worker holds.
        transactional: whether the workers use transactions.
    """

    def __init__(self, scene: Scene, *, max_in_flight: int, transactional: bool) -> None:
        self._scene, self._supervisor, self._probe = scene, scene.supervisor, scene.probe
        self._agenda, self._tell = scene.agenda, scene.tell
        self._max_in_flight, self._transactional = max_in_flight, transactional
        self._nodes, self._topics = NodeFaults(scene), TopicFaults(scene)
        self._added = itertools.count()
        self.kills: list[Kill] = []
        self.done: dict[Kind, int] = dict.fromkeys(Kind, 0)
        self.passed_over: list[Kind] = []
        self.repeats_bound = 0
        """How many answers the faults so far may have made come twice, at least once given."""

    def do(self, fault: Fault, patience: int = _PATIENCE) -> None:
        """Do it now; what belongs to it and comes later goes into the agenda.

        A fault that cannot be done now, since it needs a busy victim for one, waits: `patience` is how often it is
        tried again.
        """
        if self._do(fault, last_try=patience == 0):
            self.done[fault.kind] += 1
        elif patience:
            self._agenda.add(time.monotonic() + _AGAIN_S, lambda: self.do(fault, patience - 1))
        else:
            self._tell(f"{fault.kind} passed over: it cannot be done")
            self.passed_over.append(fault.kind)

    def _do(self, fault: Fault, last_try: bool) -> bool:
        match fault.kind:
            case Kind.SIGKILL | Kind.SIGTERM | Kind.SIGSTOP | Kind.INPUT_CUT:
                victim = self._victim(fault, any_will_do=last_try)
                if victim is None:
                    return False
                self._to_worker(victim, fault)
                return True
            case Kind.ADD_WORKER:
                self._add(fault)
                return True
            case Kind.NODE_KILL | Kind.NODE_RESTART | Kind.NODES_KILL:
                return self._node(fault)
            case Kind.INPUT_RECREATED:
                return self._topics.recreate_input(fault)
            case Kind.ANSWERS_RECREATED:
                return self._topics.recreate_answers(fault)
            case Kind.GROWN:
                return self._topics.grow()
            case Kind.COMPACTED:
                return self._topics.compact(fault)
            case Kind.JUNK | Kind.ODD_HEADERS | Kind.LARGE_RECORD | Kind.UNPACKS:
                return self._topics.publish(fault)

    def _victim(self, fault: Fault, *, any_will_do: bool) -> Worker | None:
        """A steady worker with records in flight; after long waiting one without."""
        named = (self._supervisor.workers.get(worker_name(number)) for number in fault.prefer)
        steady = [worker for worker in named if worker is not None and worker.steady]
        busy = (worker for worker in steady if worker.in_flight())
        return next(busy, steady[0] if steady and any_will_do else None)

    # ---- faults of a worker -----------------------------------------------------------------------------------

    def _to_worker(self, victim: Worker, fault: Fault) -> None:
        match fault.kind:
            case Kind.SIGTERM:
                self._tell(f"SIGTERM {victim.name}")
                self._supervisor.terminate(victim, restart_after=fault.pause)
            case Kind.SIGSTOP:
                self._suspend(victim, fault)
            case Kind.INPUT_CUT:
                partitions = self._kill(victim, fault, restart_after=_CUT_AFTER_S + fault.pause)
                self._agenda.add(
                    time.monotonic() + _CUT_AFTER_S, lambda: self._cut(partitions, fault.share, _CUTS)
                )
            case _:
                self._kill(victim, fault, restart_after=fault.pause)

    def _cut(self, partitions: tuple[int, ...], share: float, patience: int) -> None:
        if self._topics.cut(partitions, share):
            return
        if patience:
            self._agenda.add(
                time.monotonic() + _AGAIN_S / 2, lambda: self._cut(partitions, share, patience - 1)
            )
        else:
            self._tell("no backlog to delete")
            self.passed_over.append(Kind.INPUT_CUT)

    def _kill(self, victim: Worker, fault: Fault, restart_after: float) -> tuple[int, ...]:
        partitions = tuple(sorted(victim.partitions()))
        in_flight = self._catch(victim, partitions, fault)
        self._supervisor.kill(victim, restart_after)
        kill = self._aftermath(Kill(victim.name, time.monotonic(), in_flight, partitions))
        self.kills.append(kill)
        self.repeats_bound += self._max_in_flight if kill.lag is None else min(kill.lag, self._max_in_flight)
        holding = ", in a transaction" if kill.in_transaction else ""
        self._tell(f"SIGKILL {victim.name} with {in_flight} in flight of {list(partitions)}{holding}")
        return partitions

    def _suspend(self, victim: Worker, fault: Fault) -> None:
        partitions = victim.partitions()
        # Not the lag of this moment: the stream goes on while it is frozen.
        self.repeats_bound += self._max_in_flight
        in_flight = self._catch(victim, partitions, fault)
        self._supervisor.suspend(victim)
        self._tell(f"SIGSTOP {victim.name} for {fault.pause:.1f} s with {in_flight} in flight")

        def resume() -> None:
            self._supervisor.resume(victim)
            self._tell(f"SIGCONT {victim.name}")

        self._agenda.add(time.monotonic() + fault.pause, resume)

    def _add(self, fault: Fault) -> None:
        added = self._supervisor.add(f"guest-{next(self._added)}", kept=False)
        self._tell(f"{added.name} joins for {fault.pause:.1f} s")
        self._topics.visit(added, fault.pause)

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
        return [(topic, number) for topic in OUTPUTS for number in partitions]

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

    # ---- faults of brokers --------------------------------------------------------------------------------------

    def _node(self, fault: Fault) -> bool:
        """Repeats come of it when members lose their partitions meanwhile with answers that are not committed."""
        if not self._nodes.do(fault):
            return False
        self.repeats_bound += self._max_in_flight * len(self._supervisor.workers)
        return True
