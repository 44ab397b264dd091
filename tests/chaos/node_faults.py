"""Faults of the brokers: one of three is killed or restarted, or two are killed at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from consumer.errors import ExitCode
from tests.chaos.faults import Fault, Kind
from tests.chaos.scene import Scene
from tests.support.kafka.kraft import KraftBroker

_END_S, _START_S = 30.0, 60.0
_AWAY = "broker away"


class NodeFaults:
    """None of them begins before all replicas of all partitions are in sync after the one before: else more than the
    fault says would be away."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def do(self, fault: Fault) -> bool:
        """Take brokers away; they come back by themselves. False if that cannot be done now."""
        scene = self._scene
        if not scene.is_whole:
            return False
        count = 2 if fault.kind is Kind.NODES_KILL else 1
        brokers = [scene.cluster.brokers[number] for number in fault.prefer[:count]]
        # Being away for longer than a transaction lives fences every producer that had one open.
        scene.supervisor.begin_circumstance(_AWAY, ExitCode.KAFKA_FATAL)
        scene.nodes_away = count
        began = time.monotonic()
        for broker in brokers:
            (broker.terminate if fault.kind is Kind.NODE_RESTART else broker.kill)()
        names = " and ".join(str(number + 1) for number in fault.prefer[:count])
        scene.tell(f"{fault.kind}: broker {names} for {fault.pause:.1f} s")
        scene.agenda.when(
            lambda: time.monotonic() >= began + fault.pause and all(broker.has_ended for broker in brokers),
            lambda: self._start(brokers, names, began),
            fault.pause + _END_S,
            f"broker {names} has ended",
        )
        return True

    def _start(self, brokers: Sequence[KraftBroker], names: str, began: float) -> None:
        scene = self._scene
        for broker in brokers:
            broker.spawn()

        def back() -> None:
            scene.nodes_away = 0
            scene.supervisor.end_circumstance(_AWAY)
            scene.tell(f"broker {names} back after {time.monotonic() - began:.1f} s")

        scene.agenda.when(
            lambda: all(broker.is_ready() for broker in brokers),
            back,
            _START_S,
            f"broker {names} serves again",
        )
