"""One run: a broker, workers, a publisher, a reader, faults among them, and the verdict."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos.checker import Checker, Topic, Violation
from tests.chaos.faults import SESSION_S, draw, duration
from tests.chaos.injector import Agenda, Injector
from tests.chaos.probe import NoAnswer, Probe
from tests.chaos.reader import Place, Reader
from tests.chaos.report import Options, Report, recovery
from tests.chaos.stream import PARTITIONS, Publisher, Stream
from tests.chaos.workers import Supervisor, Worker, worker_name
from tests.support.kafka.kraft import KraftBroker, class_path
from tests.support.noop_service import TOKENS

WORKERS = 3
INPUT, GROUP = "sequences", "chaos"
OUTPUTS: dict[str, Topic] = {"predictions": "predictions", "sequences.dlq": "dead letters"}
MAX_IN_FLIGHT = 64
_BATCH_RECORDS = 16
_BUSY = 0.45  # the share of the time that three workers compute: the rest is for what the faults cost
_START_S = 90.0
_FINISH_S = 180.0
_VISIBLE_S = 20.0  # a dead worker's transaction ends after 10 s, and is looked for every second
_TICK_S = 0.02


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    published: int
    answered: int
    faults: int


class Watcher:
    """What a run tells while it goes on; this one keeps silent. Called from several threads."""

    def event(self, seconds: float, text: str) -> None:
        """Something was done or has happened, at this number of seconds after the start."""

    def progress(self, progress: Progress) -> None:
        """Called a few times in a second."""


class RunFailed(RuntimeError):
    """The run itself broke, which says nothing about the service."""


def run(options: Options, folder: Path, watcher: Watcher) -> Report:
    """Do one run, on the main thread, with everything that it leaves in `folder`.

    Raises:
        RunFailed: the publisher or the reader could not do its part.
        RuntimeError, AssertionError: the broker or the first workers did not start.
    """
    with ExitStack() as stack:
        return _Run(options, folder, watcher, stack).do()


class _Run:
    """The parts of a run, as they are at its beginning, and its phases."""

    def __init__(self, options: Options, folder: Path, watcher: Watcher, stack: ExitStack) -> None:
        self._options, self._watcher = options, watcher
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._report = Report(options)
        self._faults = draw(options.seed, options.faults, options.every, WORKERS)
        seconds = duration(self._faults, options.every)
        self._stream = Stream(options.seed, options.records)
        self._checker = Checker(self._stream.expected, repeats_allowed=options.delivery == "at_least_once")

        broker_folder = folder / "broker"
        broker_folder.mkdir()
        self._broker = KraftBroker(broker_folder, class_path(broker_folder)).start()
        stack.callback(self._broker.stop)
        self._broker.create_topics(dict.fromkeys((INPUT, *OUTPUTS), PARTITIONS))
        bootstrap = self._broker.bootstrap_servers

        self._probe = Probe(bootstrap, GROUP, INPUT)
        self._reader = Reader(bootstrap, OUTPUTS, PARTITIONS, self._checker, self._violated)
        stack.callback(self._reader.close)
        self._supervisor = Supervisor(_variables(options, bootstrap, seconds), folder, self._tell)
        stack.callback(self._supervisor.close)
        self._publisher = Publisher(bootstrap, INPUT, self._stream, seconds)
        self._agenda = Agenda()
        self._injector = Injector(
            self._broker,
            self._supervisor,
            self._probe,
            self._agenda,
            self._tell,
            outputs=tuple(OUTPUTS),
            partitions=PARTITIONS,
            max_in_flight=MAX_IN_FLIGHT,
            transactional=options.delivery == "exactly_once",
        )
        stack.callback(self._publisher.close)

    def do(self) -> Report:
        self._reader.start()
        for number in range(WORKERS):
            self._supervisor.add(worker_name(number))
        for worker in self._supervisor.workers.values():
            self._wait_until_steady(worker)
        self._mark("started")
        self._disturb()
        self._mark("disturbed")
        self._finish()
        self._mark("finished")
        if not self._supervisor.finish():
            raise RunFailed("the workers do not end")
        self._look_behind()
        self._mark("all")
        return self._verdict()

    def _wait_until_steady(self, worker: Worker) -> None:
        deadline = time.monotonic() + _START_S
        while not worker.steady:
            if time.monotonic() > deadline:
                raise RunFailed(f"{worker.name} is not ready within {_START_S:.0f} s")
            self._turn()

    # ---- phases -----------------------------------------------------------------------------------------------

    def _disturb(self) -> None:
        """Publish and do the faults, until both are through."""
        self._publisher.start()
        begun = time.monotonic()
        for fault in self._faults:
            self._agenda.add(begun + fault.at, partial(self._injector.do, fault))
        while self._agenda or self._publisher.is_alive():
            self._agenda.run_due()
            self._turn()

    def _finish(self) -> None:
        """Let the workers do all that is left, and see it committed and visible."""
        deadline = time.monotonic() + _FINISH_S
        while (lag := self._lag()) is None or any(lag.values()):
            if time.monotonic() > deadline:
                self._report.uncommitted = {number: left for number, left in (lag or {}).items() if left}
                self._tell("not everything gets committed")
                break
            self._turn(10)
        deadline = time.monotonic() + _VISIBLE_S
        while hidden := self._hidden():
            if time.monotonic() > deadline:
                self._report.hanging = hidden
                self._tell("a read_committed reader does not get to the end")
                break
            self._turn(10)

    def _look_behind(self) -> None:
        """Once no worker is left, the reader must come to the very end again: nothing may follow."""
        deadline = time.monotonic() + _VISIBLE_S
        while (hidden := self._hidden()) and time.monotonic() < deadline:
            self._turn(10)
        self._report.hanging = hidden

    def _verdict(self) -> Report:
        self._reader.close()
        self._check_helpers()
        report, injector = self._report, self._injector
        for violation in self._checker.missing():
            self._violated(violation)
        report.published, report.answered = self._publisher.published, self._checker.answered
        report.repeats = self._checker.repeats
        if self._options.delivery == "at_least_once":
            report.repeats_bound = injector.repeats_bound
        report.faults = injector.done | {"passed_over": injector.passed_over}
        report.kills = injector.kills
        report.recovery_s = [recovery(kill, self._reader.sightings) for kill in injector.kills]
        report.exits = self._supervisor.exits
        report.reader = {"read_again": self._reader.read_again, **self._reader.passing_errors}
        return report

    # ---- what goes on in each ---------------------------------------------------------------------------------

    def _turn(self, ticks: int = 1) -> None:
        for _ in range(ticks):
            self._supervisor.tick()
            time.sleep(_TICK_S)
        self._check_helpers()
        self._watcher.progress(
            Progress(self._publisher.published, self._checker.answered, sum(self._injector.done.values()))
        )

    def _check_helpers(self) -> None:
        for who, failure in (("publisher", self._publisher.failure), ("reader", self._reader.failure)):
            if failure is not None:
                raise RunFailed(f"the {who} failed: {failure}")

    def _lag(self) -> dict[int, int] | None:
        try:
            return self._probe.lag(range(PARTITIONS))
        except NoAnswer:
            return None

    def _hidden(self) -> list[str]:
        """The output partitions of which the reader has not seen the end."""
        places: list[Place] = [(topic, number) for topic in OUTPUTS for number in range(PARTITIONS)]
        try:
            ends = self._probe.ends(places)
        except NoAnswer as error:
            return [f"the broker does not tell the ends ({error})"]
        return [
            f"{topic} {number}: read to {self._reader.position(topic, number)} of {ends[topic, number]}"
            for topic, number in places
            if self._reader.position(topic, number) < ends[topic, number]
        ]

    def _violated(self, violation: Violation) -> None:
        with self._lock:
            self._report.violations.append(violation)
        self._tell(f"VIOLATION {violation}")

    def _tell(self, text: str) -> None:
        self._watcher.event(time.monotonic() - self._begun, text)

    def _mark(self, phase: str) -> None:
        self._report.seconds[phase] = time.monotonic() - self._begun
        self._tell(phase)


def _variables(options: Options, bootstrap: str, seconds: float) -> dict[str, str]:
    """The workers' settings: small batches that take a noticeable time, so that faults meet records on the device."""
    a_second = options.records / seconds
    variables = {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "VIRNUCPRO_GROUP_ID": GROUP,
        "VIRNUCPRO_INPUT_TOPIC": INPUT,
        "VIRNUCPRO_OUTPUT_TOPIC": "predictions",
        "VIRNUCPRO_DLQ_TOPIC": "sequences.dlq",
        "VIRNUCPRO_DELIVERY": options.delivery,
        "VIRNUCPRO_MAX_INFLIGHT_RECORDS": str(MAX_IN_FLIGHT),
        "VIRNUCPRO_TOKEN_BUDGET": str(_BATCH_RECORDS * TOKENS),
        "VIRNUCPRO_COMMIT_INTERVAL_MS": "20",
        "NOOP_TOKENS_PER_S": str(a_second * TOKENS / WORKERS / _BUSY),
    }
    if options.protocol == "consumer":
        return variables | {"VIRNUCPRO_KAFKA_GROUP_PROTOCOL": "consumer"}  # the broker decides the session
    return variables | {"VIRNUCPRO_KAFKA_SESSION_TIMEOUT_MS": str(int(SESSION_S * 1000))}
