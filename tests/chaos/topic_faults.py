"""Faults of the topics: cut, recreated, grown, compacted; and what odd publishers send to them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaException

from consumer.errors import ExitCode
from tests.chaos import records
from tests.chaos.faults import Fault, Kind
from tests.chaos.probe import NoAnswer
from tests.chaos.scene import DEAD_LETTERS, INPUT, OUTPUTS, PREDICTIONS, RunFailed, Scene
from tests.chaos.workers import Worker
from tests.support.kafka import admin

_QUIET_S, _NEARLY_QUIET = 10.0, 100
"""How long to wait until everything is committed, and read; with more records than that left it is not tried."""
_CREATE_S, _DELETE_RECORDS_S = 90.0, 30.0
_REFUSED_S, _JOINED_S = 40.0, 60.0
_AFTER_S = 30.0
"""How long workers may still end because a topic was missing for a moment: they look for it three times."""
_BURSTS: Mapping[Kind, Sequence[records.Maker]] = {
    Kind.JUNK: [records.junk] * 150,
    Kind.ODD_HEADERS: [records.odd_headers] * 24,
    Kind.LARGE_RECORD: [records.large] * 2,
    Kind.UNPACKS: [records.unpacks] * 200,
}


class TopicFaults:
    """Each method does one fault of its kind; False if it cannot be done now."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._guests = itertools.count()

    def publish(self, fault: Fault) -> bool:
        """Junk, odd headers, large records: among the others, to one partition."""
        burst = _BURSTS[fault.kind]
        self._scene.publisher.send(burst, fault.share)
        self._scene.tell(f"{fault.kind}: {len(burst)} records")
        return True

    # ---- the input ----------------------------------------------------------------------------------------------

    def cut(self, partitions: Sequence[int], share: float) -> bool:
        """Delete a share of the backlog of these partitions, as retention does; at least one message of each is left.

        False if none has a backlog, or no broker says.
        """
        scene = self._scene
        try:
            committed = scene.probe.committed(partitions)
            ends = scene.probe.ends([(INPUT, number) for number in partitions])
        except NoAnswer:
            return False
        before = {
            number: committed[number] + max(1, int(share * (left - 1)))
            for number in partitions
            if (left := ends[INPUT, number] - committed[number]) > 1
        }
        if not before:
            return False
        for number, offset in before.items():
            scene.journal.cut[scene.journal.incarnation, number] = offset
        self._insist(lambda: admin.delete_records(scene.bootstrap, INPUT, before), _DELETE_RECORDS_S)
        deleted = {number: f"{committed[number]} to {offset - 1}" for number, offset in before.items()}
        scene.tell(f"deleted of the input, by partition: {deleted}")
        return True

    def recreate_input(self, fault: Fault) -> bool:
        scene = self._scene
        if not scene.is_whole or not self._some_worker_is_steady():
            return False
        scene.publisher.hold()
        if not fault.aimed:
            scene.wait(scene.all_committed, _QUIET_S)
        left = scene.lag()
        scene.journal.recreated()
        self._recreate(INPUT)
        scene.publisher.go_on()
        scene.tell(f"{INPUT} is another topic; of the old one {left} were not committed")
        return True

    # ---- the answers --------------------------------------------------------------------------------------------

    def recreate_answers(self, fault: Fault) -> bool:
        """What is in the topic must have been read before: so with nothing in flight."""
        scene = self._scene
        lag = scene.lag()
        if lag is None or sum(lag.values()) > _NEARLY_QUIET or not scene.is_whole:
            return False
        topic = _answers(fault)
        scene.publisher.hold()
        if not scene.wait(lambda: scene.all_committed() and not scene.hidden(), _QUIET_S):
            scene.publisher.go_on()
            return False
        scene.reader.leave(topic)
        self._recreate(topic)
        scene.reader.begin_again(topic, scene.journal.partitions)
        scene.publisher.go_on()
        scene.tell(f"{topic} is another topic")
        return True

    def compact(self, fault: Fault) -> bool:
        """A worker that starts now must refuse, and joins once the topic is as it was."""
        scene = self._scene
        topic = _answers(fault)
        if not scene.is_whole:
            return False
        what = f"{topic} compacted"
        scene.supervisor.begin_circumstance(what, ExitCode.RUNTIME)
        self._insist(
            lambda: admin.configure_topic(scene.bootstrap, topic, "cleanup.policy", "compact"), _CREATE_S
        )
        name = f"refused-{next(self._guests)}"
        worker = scene.supervisor.add_refused(name, f"compacted topics cannot take answers: {topic}")
        scene.tell(f"{topic} is compacted; {name} is started")

        def revert() -> None:
            self._insist(
                lambda: admin.configure_topic(scene.bootstrap, topic, "cleanup.policy", "delete"), _CREATE_S
            )
            scene.supervisor.end_circumstance(what)
            scene.tell(f"{topic} is as it was; {name} joins for {fault.pause:.1f} s")
            self.visit(scene.supervisor.add(name, kept=False), fault.pause)

        scene.agenda.when(lambda: worker.life is None, revert, _REFUSED_S, f"{name} has ended")
        return True

    # ---- all topics ---------------------------------------------------------------------------------------------

    def grow(self) -> bool:
        """In one request: with other counts the key would decide where an answer goes."""
        scene = self._scene
        if not scene.is_whole:
            return False
        count = scene.journal.partitions + 1
        topics = dict.fromkeys((INPUT, *OUTPUTS), count)
        try:
            admin.add_partitions(scene.bootstrap, topics)
        except KafkaException as error:
            raise RunFailed(f"the topics do not grow: {error}") from error
        scene.reader.grow(count)
        scene.journal.partitions = count
        scene.tell(f"{count} partitions")
        return True

    # ---- helpers ------------------------------------------------------------------------------------------------

    def visit(self, worker: Worker, seconds: float) -> None:
        """Send a worker away again some seconds from now, once it has joined."""
        scene = self._scene

        def leave() -> None:
            if worker.life is not None:
                scene.tell(f"SIGTERM {worker.name}")
                scene.supervisor.terminate(worker)

        scene.agenda.add(
            time.monotonic() + seconds,
            lambda: scene.agenda.when(
                lambda: worker.steady or worker.life is None, leave, _JOINED_S, f"{worker.name} has joined"
            ),
        )

    def _recreate(self, topic: str) -> None:
        """As fast as the brokers let it be."""
        scene = self._scene
        what = f"{topic} missing"
        scene.supervisor.begin_circumstance(what, ExitCode.RUNTIME)
        admin.delete_topic(scene.bootstrap, topic)
        topics = {topic: scene.journal.partitions}
        self._insist(lambda: admin.create_topics(scene.bootstrap, topics, {}), _CREATE_S)
        scene.supervisor.end_circumstance(what, after_s=_AFTER_S)

    def _some_worker_is_steady(self) -> bool:
        return any(worker.steady for worker in self._scene.supervisor.workers.values())

    @staticmethod
    def _insist(request: Callable[[], None], seconds: float) -> None:
        """Repeat a request until the brokers do it."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                request()
            except (KafkaException, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise RunFailed(f"the brokers do not do it: {error}") from error
                time.sleep(0.05)
            else:
                return


def _answers(fault: Fault) -> str:
    """One of the two topics for answers."""
    return PREDICTIONS if fault.share < 0.5 else DEAD_LETTERS
