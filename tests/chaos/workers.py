"""The workers of a run, and the supervisor that starts again whatever ends and judges how it ended."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consumer.errors import ExitCode
from tests.chaos.worker_log import entries
from tests.support.harness import NoopServe
from tests.support.kafka.kraft import free_port
from tests.support.memory_limit import MemoryLimit, memory_limit

DRAIN_S = 25.0
MEMORY_BYTES = 1 << 30
"""Of each worker."""
_STOP_S = DRAIN_S + 15
_AFTER_EXIT_S = 0.5
_TRACEBACK_S = 0.5


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker's process ended, what was done to it before, whether that is a right end, and its last words."""

    worker: str
    code: int
    after: str
    right: bool
    said: str


class _Process(NoopServe):
    command = (sys.executable, "-m", "tests.chaos.worker_process")

    @property
    def has_joined(self) -> bool:
        """Whether it has said that it is ready: it has joined its group."""
        return not self._lines.empty()


@dataclass(slots=True)
class _Life:
    """One process of a worker.

    Attributes:
        done_to_it: what may have made it end.
        ends: the exit codes that are right for that.
        must_say: what its last words have to hold.
    """

    process: _Process
    log_from: int
    done_to_it: list[str] = field(default_factory=list)
    ends: set[int] = field(default_factory=set)
    must_say: str = ""
    stop_by: float | None = None
    suspended: bool = False
    ending: bool = False


@dataclass(slots=True)
class _Circumstance:
    """Something because of which workers may end with a code, and until when (monotonic)."""

    end: ExitCode
    until: float = math.inf


class Worker:
    """An instance id, and the processes that live under it one after another."""

    def __init__(
        self, name: str, variables: Mapping[str, str], folder: Path, limit: MemoryLimit, *, kept: bool
    ) -> None:
        self.name, self.kept, self.limit = name, kept, limit
        self._log = folder / f"{name}.log"
        self._variables = {
            **variables,
            **limit.variables,
            "VIRNUCPRO_INSTANCE_ID": name,
            "VIRNUCPRO_STATE_DIR": str(folder / name),
            "VIRNUCPRO_LOG_FORMAT": "json",
            "VIRNUCPRO_DRAIN_TIMEOUT_S": str(DRAIN_S),
        }
        self.life: _Life | None = None
        self.start_at: float | None = None

    @property
    def steady(self) -> bool:
        """It is a member of its group, and no fault is being done to it."""
        life = self.life
        if life is None or life.suspended or life.ending or life.process.process.poll() is not None:
            return False
        return life.process.has_joined

    def start(self) -> None:
        log_from = self._log.stat().st_size if self._log.exists() else 0
        port = free_port()
        process = _Process(self._log, **self._variables, VIRNUCPRO_HTTP_PORT=str(port))
        process.http = f"http://127.0.0.1:{port}"
        self.life, self.start_at = _Life(process, log_from), None

    def in_flight(self) -> int | None:
        """How many records its metrics say it holds; None when it does not answer."""
        try:
            return None if self.life is None else int(self.life.process.metric("vnp_inflight_records"))
        except (OSError, AssertionError):
            return None

    def partitions(self) -> set[int]:
        """The partitions that its log says it has."""
        owned: set[int] = set()
        for entry in self._entries():
            match entry.get("event"):
                case "partitions_assigned":
                    owned.update(entry["partitions"])
                case "partitions_revoked" | "partitions_lost":
                    owned.difference_update(entry["partitions"])
        return owned

    def last_words(self) -> str:
        """The error that its process ended with, if it told one."""
        errors = [entry for entry in self._entries() if entry.get("event") == "service_failed"]
        return str(errors[-1].get("error", errors[-1].get("exception"))) if errors else ""

    def _entries(self) -> Iterator[dict[str, Any]]:
        """The log of its present process."""
        return entries(line for line in self._lines() if line.endswith(b"\n"))

    def _lines(self) -> Iterator[bytes]:
        if self.life is None:
            return
        with self._log.open("rb") as log:
            log.seek(self.life.log_from)
            yield from log


class Supervisor:
    """Starts workers, sends them signals, and starts again those that have ended.

    Args:
        tell: told in words what ends and starts.
    """

    def __init__(self, variables: Mapping[str, str], folder: Path, tell: Callable[[str], None]) -> None:
        self._variables, self._folder, self._tell = variables, folder, tell
        self._circumstances: dict[str, _Circumstance] = {}
        self._limits: dict[str, MemoryLimit] = {}
        self.workers: dict[str, Worker] = {}
        self.exits: list[Exit] = []

    @property
    def logs(self) -> list[Path]:
        """Of all workers that there were."""
        return [self._folder / f"{name}.log" for name in self._limits]

    @property
    def memory(self) -> tuple[str, int | None]:
        """What bounds each worker's memory, and the most bytes that one had in use, where that is counted."""
        peaks = [limit.peak() or 0 for limit in self._limits.values()]
        return "; ".join({limit.kind for limit in self._limits.values()}), max(peaks, default=0) or None

    # ---- what faults do ---------------------------------------------------------------------------------------

    def add(self, name: str, *, kept: bool = True) -> Worker:
        """Start a worker; one that is not `kept` is not restarted when it ends."""
        limit = self._limits.get(name) or memory_limit(f"chaos-{name}", MEMORY_BYTES)
        self._limits[name] = limit
        worker = self.workers[name] = Worker(name, self._variables, self._folder, limit, kept=kept)
        self._start(worker)
        return worker

    def add_refused(self, name: str, must_say: str) -> Worker:
        """Start a worker that has to end with code 1, and say why."""
        worker = self.add(name, kept=False)
        assert worker.life is not None
        worker.life.must_say = must_say
        worker.life.done_to_it.append("a start that must be refused")
        worker.life.ends = {int(ExitCode.RUNTIME)}
        return worker

    def kill(self, worker: Worker, restart_after: float) -> None:
        """SIGKILL, and wait until it is dead."""
        life = self._do(worker, "SIGKILL", -signal.SIGKILL)
        life.ending = True
        life.process.stop(signal.SIGKILL)
        worker.start_at = time.monotonic() + restart_after

    def terminate(self, worker: Worker, restart_after: float | None = None) -> None:
        """SIGTERM; `tick` sees to the rest. Without `restart_after` it stays away."""
        life = self._do(worker, "SIGTERM", ExitCode.OK)
        life.ending = True
        life.stop_by = time.monotonic() + _STOP_S
        life.process.process.send_signal(signal.SIGTERM)
        if restart_after is None:
            worker.kept = False
        else:
            worker.start_at = time.monotonic() + restart_after

    def suspend(self, worker: Worker) -> None:
        """SIGSTOP. A member that comes back too late may find itself fenced, which ends it with its own code."""
        life = self._do(worker, "SIGSTOP", ExitCode.KAFKA_FATAL)
        life.suspended = True
        life.process.process.send_signal(signal.SIGSTOP)

    def resume(self, worker: Worker) -> None:
        """SIGCONT, if that process is still there."""
        if worker.life is not None and worker.life.suspended:
            worker.life.suspended = False
            worker.life.process.process.send_signal(signal.SIGCONT)

    def freeze(self, worker: Worker) -> None:
        """SIGSTOP for a moment: too short to count as a fault."""
        if worker.life is not None:
            worker.life.process.process.send_signal(signal.SIGSTOP)

    def thaw(self, worker: Worker) -> None:
        """SIGCONT after `freeze`."""
        if worker.life is not None:
            worker.life.process.process.send_signal(signal.SIGCONT)

    def begin_circumstance(self, what: str, end: ExitCode) -> None:
        """From now on until `end_circumstance` a worker may end with this code because of `what`, and one that lives
        through a part of that also later."""
        self._circumstances[what] = _Circumstance(end)
        for worker in self.workers.values():
            if worker.life is not None:
                self._do(worker, what, end)

    def end_circumstance(self, what: str, after_s: float = 0.0) -> None:
        """Workers that are started from then on have nothing to do with it."""
        self._circumstances[what].until = time.monotonic() + after_s

    # ---- what goes on -----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take note of what has ended, start what is due, end what does not end by itself."""
        now = time.monotonic()
        for worker in list(self.workers.values()):
            life = worker.life
            if life is not None and life.process.process.poll() is not None:
                self._ended(worker, life)
            elif life is not None and life.stop_by is not None and now > life.stop_by:
                self._tell(f"{worker.name} does not end within {_STOP_S:.0f} s of SIGTERM: killed")
                life.stop_by = None
                life.process.process.send_signal(signal.SIGUSR1)  # it says where it is stuck
                time.sleep(_TRACEBACK_S)
                life.process.stop(signal.SIGKILL)
            elif life is None and worker.start_at is not None and now >= worker.start_at:
                self._start(worker)
                self._tell(f"{worker.name} started again")

    def finish(self) -> bool:
        """SIGTERM to all, and wait for their ends; False if one took too long."""
        for worker in self.workers.values():
            self.resume(worker)
            worker.start_at = None
            if worker.life is not None and not worker.life.ending:
                self.terminate(worker)
            worker.kept = False
        deadline = time.monotonic() + _STOP_S + 5
        while self.workers and time.monotonic() < deadline:
            self.tick()
            for name in [name for name, worker in self.workers.items() if worker.life is None]:
                del self.workers[name]
            time.sleep(0.05)
        return not self.workers

    def close(self) -> None:
        """Kill whatever is left."""
        for worker in self.workers.values():
            if worker.life is not None:
                worker.life.process.close()
        for limit in self._limits.values():
            limit.remove()

    def _start(self, worker: Worker) -> None:
        worker.start()
        for what, circumstance in self._circumstances.items():
            if time.monotonic() < circumstance.until:
                self._do(worker, what, circumstance.end)

    def _do(self, worker: Worker, what: str, end: int) -> _Life:
        life = worker.life
        assert life is not None, f"{worker.name} is not running"
        life.done_to_it.append(what)
        life.ends.add(int(end))
        return life

    def _ended(self, worker: Worker, life: _Life) -> None:
        code = life.process.process.returncode
        life.process.close()
        said = worker.last_words()
        worker.life = None
        after = ", ".join(dict.fromkeys(life.done_to_it)) or "nothing"
        right = code in life.ends and life.must_say in said
        done = Exit(worker.name, code, after, right, said)
        self.exits.append(done)
        wrong = "" if done.right else ": NOT RIGHT"
        self._tell(f"{worker.name} ended with {code} after {after}{wrong}{said and ': ' + said}")
        if worker.kept and worker.start_at is None:
            worker.start_at = time.monotonic() + _AFTER_EXIT_S
        elif not worker.kept:
            self.workers.pop(worker.name, None)


def worker_name(number: int) -> str:
    """The instance id of one of the workers that are there from the beginning."""
    return f"worker-{number}"
