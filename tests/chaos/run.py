"""One run: three brokers, workers, a publisher, a reader, faults among them, and the verdict."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos.checker import Checker, Violation
from tests.chaos.faults import SESSION_S, draw, duration
from tests.chaos.injector import Injector
from tests.chaos.journal import Journal
from tests.chaos.probe import Probe
from tests.chaos.publisher import Publisher
from tests.chaos.reader import Reader
from tests.chaos.report import Options, Report, recovery
from tests.chaos.scene import DEAD_LETTERS, GROUP, INPUT, OUTPUTS, PREDICTIONS, RunFailed, Scene
from tests.chaos.worker_log import read_events
from tests.chaos.workers import Supervisor, Worker, worker_name
from tests.support.kafka.kraft_cluster import KraftCluster
from tests.support.noop_service import TOKENS

WORKERS, PARTITIONS = 3, 6
MAX_IN_FLIGHT = 64
_BATCH_RECORDS = 16
_BASES_PER_FRAME = 25_000  # a record of 1,000,000 bases has 40 frames, more than a batch takes
_BUSY = 0.45  # the share of the time that three workers compute: the rest is for what the faults cost
_START_S = 90.0
_FINISH_S = 180.0
_VISIBLE_S = 20.0  # a dead worker's transaction ends after 10 s, and is looked for every five seconds
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


def run(options: Options, folder: Path, watcher: Watcher) -> Report:
    """Do one run, on the main thread, with everything that it leaves in `folder`.

    Raises:
        NoBroker: this machine can run none.
        RunFailed: a part of the run itself could not do its work.
        RuntimeError, AssertionError: the brokers or the first workers did not start.
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
        self._faults = draw(options.seed, options.faults, options.every, WORKERS, options.kinds)
        seconds = duration(self._faults, options.every)
        journal = Journal(PARTITIONS)
        self._checker = Checker(journal.expected, repeats_allowed=options.delivery == "at_least_once")

        cluster = KraftCluster(folder).start()
        stack.callback(cluster.stop)
        cluster.create_topics(dict.fromkeys((INPUT, *OUTPUTS), PARTITIONS))
        bootstrap = cluster.bootstrap_servers
        self._reader = Reader(bootstrap, OUTPUTS, PARTITIONS, self._checker, self._violated)
        stack.callback(self._reader.close)
        self._supervisor = Supervisor(_variables(options, bootstrap, seconds), folder, self._tell)
        stack.callback(self._supervisor.close)
        self._publisher = Publisher(bootstrap, INPUT, journal, options.seed, options.records, seconds)
        self._scene = Scene(
            cluster,
            self._supervisor,
            journal,
            self._publisher,
            self._reader,
            Probe(bootstrap, GROUP, INPUT),
            self._tell,
        )
        self._injector = Injector(
            self._scene, max_in_flight=MAX_IN_FLIGHT, transactional=options.delivery == "exactly_once"
        )

    def do(self) -> Report:
        self._reader.start()
        for number in range(WORKERS):
            self._supervisor.add(worker_name(number))
        for worker in self._supervisor.workers.values():
            self._wait_until_steady(worker)
        self._mark("started")
        try:
            self._disturb()
        finally:
            self._publisher.finish()
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
        agenda = self._scene.agenda
        self._publisher.start()
        begun = time.monotonic()
        for fault in self._faults:
            agenda.add(begun + fault.at, partial(self._injector.do, fault))
        while agenda or not self._publisher.is_through:
            agenda.run_due()
            self._turn()

    def _finish(self) -> None:
        """Let the workers do all that is left, and see it committed and visible."""
        deadline = time.monotonic() + _FINISH_S
        while not self._scene.all_committed():
            if time.monotonic() > deadline:
                lag = self._scene.lag() or {}
                self._report.uncommitted = {number: left for number, left in lag.items() if left}
                self._tell("not everything gets committed")
                break
            self._turn(10)
        self._wait_until_visible()

    def _wait_until_visible(self) -> None:
        deadline = time.monotonic() + _VISIBLE_S
        while (hidden := self._scene.hidden()) and time.monotonic() < deadline:
            self._turn(10)
        if hidden:
            self._tell("a read_committed reader does not get to the end")
        self._report.hanging = hidden

    def _look_behind(self) -> None:
        """Once no worker is left, the reader must come to the very end again: nothing may follow."""
        self._wait_until_visible()

    def _verdict(self) -> Report:
        self._reader.close()
        self._check_helpers()
        report, injector, journal = self._report, self._injector, self._scene.journal
        events = read_events(self._supervisor.logs, INPUT)
        for violation in self._checker.missing(journal.deleted(events)):
            self._violated(violation)
        report.published, report.answered = self._publisher.published, self._checker.answered
        report.repeats, report.skipped = self._checker.repeats, self._checker.skipped
        if self._options.delivery == "at_least_once":
            report.repeats_bound = injector.repeats_bound
        report.breaker_opened = events.breaker_opened
        report.faults = {kind.value: times for kind, times in injector.done.items()}
        report.passed_over = [kind.value for kind in injector.passed_over]
        report.kills = injector.kills
        report.recovery_s = [recovery(kill, self._reader.sightings) for kill in injector.kills]
        report.exits = self._supervisor.exits
        report.reader = {"read_again": self._reader.read_again, **self._reader.passing_errors}
        report.topics = {"partitions": journal.partitions, "input_topics": journal.incarnation + 1}
        report.memory_limit, report.memory_peak = self._supervisor.memory
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
        "VIRNUCPRO_OUTPUT_TOPIC": PREDICTIONS,
        "VIRNUCPRO_DLQ_TOPIC": DEAD_LETTERS,
        "VIRNUCPRO_DELIVERY": options.delivery,
        "VIRNUCPRO_MAX_INFLIGHT_RECORDS": str(MAX_IN_FLIGHT),
        "VIRNUCPRO_TOKEN_BUDGET": str(_BATCH_RECORDS * TOKENS),
        "VIRNUCPRO_COMMIT_INTERVAL_MS": "20",
        # The default of five minutes is how long a new partition may wait for its first reader.
        "VIRNUCPRO_KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS": "2000",
        "NOOP_TOKENS_PER_S": str(a_second * TOKENS / WORKERS / _BUSY),
        "NOOP_BASES_PER_FRAME": str(_BASES_PER_FRAME),
    }
    if options.protocol == "consumer":
        return variables | {"VIRNUCPRO_KAFKA_GROUP_PROTOCOL": "consumer"}  # the broker decides the session
    return variables | {"VIRNUCPRO_KAFKA_SESSION_TIMEOUT_MS": str(int(SESSION_S * 1000))}
