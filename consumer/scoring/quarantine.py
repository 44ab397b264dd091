"""Which records were on the device when the process died: they are suspects, and one that kills again is set aside.

A record that makes the model raise is found by bisection (`virnucpro_core/scoring/robust.py`). One that kills the
process (a driver's fault, memory that the kernel takes back) leaves no process to do that, and after the restart it is
read again, and kills again. So the records of a batch are written to a file, and synced, before the batch is enqueued,
and removed when it has run. What the next process finds there was running when the last one died:

* after one death nothing changes: something else may have killed it (a deployment, a full node);
* after two a record runs alone, so that it takes no others with it, and others clear themselves;
* a record that was alone at the third is not run again: it becomes a dead letter (`quarantined`).

*Alone* is alone in the process, not only on the device: nothing else is in flight, and nothing is read meanwhile
(`consumer/intake/isolation.py`). A process that dies for lack of memory mostly dies of its backlog, whatever record is
on the device at that moment; such deaths make suspects, however many, and each suspect clears itself as it runs alone.

What runs to its end is cleared. A second SIGTERM, or a node that goes down, counts as a death too: it takes three of
them in the same record's moments, the last with it alone, to set a good record aside.

A record is known by its topic, partition, offset and id, so that a record of a recreated topic is not a suspect.
Suspicions are kept for a week. The files lie in `VIRNUCPRO_STATE_DIR`, which must outlive the process (not the
machine), three for each group and instance: `.running` and `.running.next` are written in turn, one for every batch
while the batch before it computes (`consumer/scoring/running_files.py`), `.suspects` when a suspicion changes.
Two processes of the same instance id write to the same files; Kafka ends the elder one, and all that is lost is a
suspicion.

`announced` runs on the thread that takes batches, all other methods on the inference thread; `isolation` and
`runs_alone` may be called from any thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import structlog
from pydantic import ConfigDict, TypeAdapter

from consumer.scoring.batcher import RecordJob
from consumer.scoring.inference import Isolation
from consumer.scoring.running_files import RunningFiles, read_state
from consumer.scoring.state_folder import DISK_FULL, StateFolder, file_name, unusable
from consumer.types import Source

log = structlog.get_logger(__name__)

ALONE_AFTER = 2
_KEPT_S = 7 * 86_400.0
_MAX_SUSPECTS = 10_000


@dataclass(slots=True)
class _Suspicion:
    """How often the process died with this record on the device, whether alone in it at the last time, and when."""

    # Fields of another version are not read as if they were this one's.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    deaths: int = 0
    alone: bool = False
    at: float = 0.0

    @property
    def isolation(self) -> Isolation:
        if self.deaths < ALONE_AFTER:
            return "run"
        return "reject" if self.deaths > ALONE_AFTER and self.alone else "run_alone"


_SUSPECTS = TypeAdapter(dict[str, _Suspicion])


class Quarantine:
    """The `Suspects` of one instance, kept in its files.

    Args:
        folder: made if it is not there, for its owner alone.
        name: of the instance; any text.
        now: wall clock, seconds since 1970-01-01 UTC.

    Raises:
        ServiceError: the folder cannot be written to, or is not this user's alone. A full disk is logged instead: the
            service works without the files until there is room.
    """

    def __init__(self, folder: Path, name: str, now: float | None = None) -> None:
        now = time.time() if now is None else now
        name = file_name(name)
        self._suspects_name = f"{name}.suspects"
        self._folder = StateFolder(folder)
        self._running = RunningFiles(self._folder, f"{name}.running")
        self._suspects: dict[str, _Suspicion] = {}
        try:
            self._take_stock(now)
        except OSError as error:
            if error.errno not in DISK_FULL:
                self.close()
                raise unusable(folder, error) from error
            _log_not_written(error)
        alone = (key for key, suspicion in self._suspects.items() if suspicion.isolation == "run_alone")
        self._alone = frozenset("/".join(key.split("/", 3)[:3]) for key in alone)

    def close(self) -> None:
        """Nothing is running any more."""
        self._running.close()
        self._folder.close()

    @property
    def count(self) -> int:
        """Records under suspicion."""
        return len(self._suspects)

    def runs_alone(self, source: Source) -> bool:
        """Whether the record at this place may be a suspect that runs with nothing else in flight."""
        return str(source) in self._alone

    def announced(self, jobs: Sequence[RecordJob]) -> None:
        with _best_effort():
            self._running.announce([_key(job) for job in jobs])

    def begins(self) -> None:
        self._running.begin()

    def isolation(self, job: RecordJob) -> Isolation:
        suspicion = self._suspects.get(_key(job))
        return suspicion.isolation if suspicion else "run"

    def entering(self, jobs: Sequence[RecordJob]) -> None:
        alone = len(jobs) == 1 and self.isolation(jobs[0]) == "run_alone"
        with _best_effort():
            self._running.enter([_key(job) for job in jobs], alone)

    def left(self) -> None:
        with _best_effort():
            self._running.leave()

    def cleared(self, job: RecordJob) -> None:
        if self._suspects.pop(_key(job), None) is not None:
            with _best_effort():
                self._save(self._suspects)

    def _take_stock(self, now: float) -> None:
        """The suspicions kept, and those that the last process's end adds."""
        kept = read_state(self._folder, self._suspects_name, _SUSPECTS) or {}
        suspects = {key: suspicion for key, suspicion in kept.items() if now - suspicion.at < _KEPT_S}
        died: dict[str, bool] = {}  # whether alone
        for running in self._running.interrupted():
            for key in running.records:
                died[key] = died.get(key, False) or running.alone
        for key, alone in died.items():
            suspicion = suspects.pop(key, _Suspicion())  # to the end: the oldest are dropped first
            suspects[key] = _Suspicion(suspicion.deaths + 1, alone, now)
        if died:
            log.warning("process_died_with_records_on_device", records=len(died))
        self._suspects = dict(list(suspects.items())[-_MAX_SUSPECTS:])
        self._save(self._suspects)
        self._running.forget()

    def _save(self, suspects: dict[str, _Suspicion]) -> None:
        written = json.dumps({key: asdict(suspicion) for key, suspicion in suspects.items()})
        self._folder.replace(self._suspects_name, written.encode())


@contextmanager
def _best_effort() -> Iterator[None]:
    """Log a failed write and go on: without the quarantine the service still works."""
    try:
        yield
    except OSError as error:
        _log_not_written(error)


def _log_not_written(error: OSError) -> None:
    log.error("suspects_not_written", cure="check the disk of VIRNUCPRO_STATE_DIR", error=str(error))


def _key(job: RecordJob) -> str:
    return f"{job.source}/{job.prepared.record_id}"
