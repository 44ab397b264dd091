"""What a run consists of, as those see it who do faults to it."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.checker import Topic
from tests.chaos.journal import Journal
from tests.chaos.probe import NoAnswer, Probe
from tests.chaos.publisher import Publisher
from tests.chaos.reader import Place, Reader
from tests.chaos.workers import Supervisor
from tests.support.kafka.kraft_cluster import KraftCluster

INPUT, PREDICTIONS, DEAD_LETTERS, GROUP = "sequences", "predictions", "sequences.dlq", "chaos"
OUTPUTS: dict[str, Topic] = {PREDICTIONS: "predictions", DEAD_LETTERS: "dead letters"}
_TICK_S = 0.02


class RunFailed(RuntimeError):
    """The run itself broke, which says nothing about the service."""


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

    def when(
        self,
        condition: Callable[[], bool],
        then: Callable[[], None],
        seconds: float,
        what: str,
        every: float = 0.2,
    ) -> None:
        """Do something once a condition holds, which is looked at now and then; RunFailed if it never does."""
        deadline = time.monotonic() + seconds

        def look() -> None:
            if condition():
                then()
            elif time.monotonic() > deadline:
                raise RunFailed(f"not within {seconds:.0f} s: {what}")
            else:
                self.add(time.monotonic() + every, look)

        look()


@dataclass(slots=True)
class Scene:
    """The parts of a run.

    Attributes:
        tell: told in words what is done.
        nodes_away: how many brokers are away because of a fault.
    """

    cluster: KraftCluster
    supervisor: Supervisor
    journal: Journal
    publisher: Publisher
    reader: Reader
    probe: Probe
    tell: Callable[[str], None]
    agenda: Agenda = field(default_factory=Agenda)
    nodes_away: int = 0

    @property
    def bootstrap(self) -> str:
        return self.cluster.bootstrap_servers

    @property
    def inputs(self) -> range:
        """The numbers of the input partitions."""
        return range(self.journal.partitions)

    @property
    def outputs(self) -> list[Place]:
        """All partitions of both output topics."""
        return [(topic, number) for topic in OUTPUTS for number in self.inputs]

    @property
    def is_whole(self) -> bool:
        """No fault is being done to a broker, and all replicas are in sync."""
        return not self.nodes_away and self.cluster.is_whole

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for something while workers are started again as usual; False if it does not come."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.supervisor.tick()
            time.sleep(_TICK_S)
        return True

    def lag(self) -> dict[int, int] | None:
        """Of each input partition, what is published and not committed; None where the broker does not say."""
        try:
            return self.probe.lag(self.inputs)
        except NoAnswer:
            return None

    def all_committed(self) -> bool:
        """Whether every input offset is committed."""
        lag = self.lag()
        return lag is not None and not any(lag.values())

    def hidden(self) -> list[str]:
        """The output partitions of which the reader has not seen the end."""
        try:
            ends = self.probe.ends(self.outputs)
        except NoAnswer as error:
            return [f"the broker does not tell the ends ({error})"]
        return [
            f"{topic} {number}: read to {self.reader.position(topic, number)} of {ends[topic, number]}"
            for topic, number in self.outputs
            if self.reader.position(topic, number) < ends[topic, number]
        ]
