"""Which records were on the device when the process died: they are suspects, and one that kills again is set aside.

A record that makes the model raise is found by bisection (`consumer/scoring/inference.py`). One that kills
the process (a
driver's fault, memory that the kernel takes back) leaves nobody to do that, and after the restart it is read again, and
kills again. So the records of a batch are written to a file, and synced, before the batch runs, and struck off when it
has run. What the next process finds there was running when the last one died:

* after one death nothing changes: something else may have killed it (a deployment, a full node);
* after two a record runs alone, so that it takes no others with it, and others clear themselves;
* a record that was alone at the third is not run again: it becomes a dead letter (`quarantined`).

*Alone* is alone in the process, not only on the device: nothing else is in flight, and nothing is read meanwhile
(`consumer/intake/apart.py`). A process that dies for lack of memory dies of its backlog, mostly, and of
whatever record is on
the device just then; such deaths make suspects, however many, and each suspect clears itself as it runs alone.

What runs to its end is cleared. A second SIGTERM, or a node that goes down, counts as a death too: it takes three of
them in the same record's moments, the last with it alone, to set a good record aside.

A record is known by its topic, partition, offset and id, so that a topic made anew meets no old suspicion. Suspicions
are kept for a week. The files lie in `VIRNUCPRO_STATE_DIR`, which must outlive the process (not the machine), two for
each group and instance: `.running` is written for every batch, `.suspects` when a suspicion changes. Two processes of
the same instance id write to the same files; Kafka ends the elder one, and all that is lost is a suspicion.

All methods run on the inference thread; `runs_alone` alone may be called from any thread.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, TypeVar
from urllib.parse import quote

import structlog
from pydantic import ConfigDict, TypeAdapter, ValidationError

from consumer.errors import ServiceError
from consumer.scoring.batcher import RecordJob
from consumer.scoring.inference import Suspects, Verdict
from consumer.scoring.state_folder import DISK_FULL, StateFolder
from consumer.types import Source

log = structlog.get_logger(__name__)

ALONE_AFTER = 2
_KEPT_S = 7 * 86_400.0
_MOST = 10_000
_NOT_WRITTEN = "suspects can't be written down: see the disk of the state folder"


@dataclass(slots=True)
class _Suspicion:
    """How often the process died with this record on the device, whether alone in it at the last time, and when."""

    # Fields of another version are not read as if they were this one's.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    deaths: int = 0
    alone: bool = False
    at: float = 0.0

    @property
    def verdict(self) -> Verdict:
        if self.deaths < ALONE_AFTER:
            return "free"
        return "condemned" if self.deaths > ALONE_AFTER and self.alone else "alone"


@dataclass(frozen=True, slots=True)
class _Running:
    """The records on the device, and whether the one was alone in the process."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    alone: bool
    records: list[str]


_T = TypeVar("_T")
_SUSPECTS = TypeAdapter(dict[str, _Suspicion])
_RUNNING = TypeAdapter(_Running)


class Quarantine(Suspects):
    """Keeps the two files of one instance.

    Args:
        folder: made if it is not there, for its owner alone.
        name: of the instance; any text.
        now: wall clock, seconds since 1970-01-01 UTC.

    Raises:
        ServiceError: the folder can't be written to, or is not this user's alone. A full disk is logged instead: the
            service works without the files until there is room.
    """

    def __init__(self, folder: Path, name: str, now: float | None = None) -> None:
        now = time.time() if now is None else now
        self._suspects_name = f"{quote(name, safe='')}.suspects"
        self._running_name = f"{quote(name, safe='')}.running"
        self._folder = StateFolder(folder)
        self._running: int | None = None
        self._suspects: dict[str, _Suspicion] = {}
        try:
            self._take_stock(now)
        except OSError as error:
            if error.errno not in DISK_FULL:
                self.close()
                raise ServiceError(
                    f"the state folder {folder} can't be used ({error.strerror}): set VIRNUCPRO_STATE_DIR to one "
                    "that this user, and no other, may write to"
                ) from error
            log.error(_NOT_WRITTEN, error=str(error))
        alone = (key for key, suspicion in self._suspects.items() if suspicion.verdict == "alone")
        self._alone = frozenset("/".join(key.split("/", 3)[:3]) for key in alone)

    def close(self) -> None:
        """Nothing is running any more."""
        if self._running is not None:
            os.close(self._running)
            self._running = None
        self._folder.close()

    @property
    def count(self) -> int:
        """Records under suspicion."""
        return len(self._suspects)

    def runs_alone(self, source: Source) -> bool:
        """May a suspect lie at this place, one that runs with nothing else in flight? Another record may by now."""
        return str(source) in self._alone

    # ---- what inference asks and tells ------------------------------------------------------------------------

    def verdict(self, job: RecordJob) -> Verdict:
        suspicion = self._suspects.get(_key(job))
        return suspicion.verdict if suspicion else "free"

    def entering(self, jobs: Sequence[RecordJob]) -> None:
        alone = len(jobs) == 1 and self.verdict(jobs[0]) == "alone"
        written = json.dumps({"alone": alone, "records": [_key(job) for job in jobs]}).encode()
        with _told():
            running = self._opened_running()
            os.pwrite(running, written, 0)
            os.ftruncate(running, len(written))
            os.fdatasync(running)

    def left(self, jobs: Sequence[RecordJob]) -> None:
        if self._running is not None:
            with _told():
                os.ftruncate(self._running, 0)

    def cleared(self, job: RecordJob) -> None:
        if self._suspects.pop(_key(job), None) is not None:
            with _told():
                self._save(self._suspects)

    # ---- the files --------------------------------------------------------------------------------------------

    def _take_stock(self, now: float) -> None:
        """The suspicions kept, and those that the last process's end adds."""
        kept = self._read(self._suspects_name, _SUSPECTS) or {}
        running = self._read(self._running_name, _RUNNING)
        suspects = {key: suspicion for key, suspicion in kept.items() if now - suspicion.at < _KEPT_S}
        if running:
            for key in running.records:
                suspicion = suspects.pop(key, _Suspicion())  # to the end: the oldest are dropped first
                suspects[key] = _Suspicion(suspicion.deaths + 1, running.alone, now)
            log.warning("the last process died with records on the device", records=len(running.records))
        self._suspects = dict(list(suspects.items())[-_MOST:])
        self._save(self._suspects)
        os.ftruncate(self._opened_running(), 0)

    def _opened_running(self) -> int:
        if self._running is None:
            self._running = self._folder.open(self._running_name)
        return self._running

    def _read(self, name: str, form: TypeAdapter[_T]) -> _T | None:
        """What a file holds; None for one that is empty, absent, damaged, or of another version."""
        try:
            text = self._folder.read(name)
            return form.validate_json(text) if text else None
        except ValidationError as error:
            why = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
        except ValueError as error:
            why = str(error)
        log.warning("state_file_discarded", file=name, error=why)
        return None

    def _save(self, suspects: dict[str, _Suspicion]) -> None:
        written = json.dumps({key: asdict(suspicion) for key, suspicion in suspects.items()})
        self._folder.replace(self._suspects_name, written.encode())


@contextmanager
def _told() -> Iterator[None]:
    """Without its safety net the service still works."""
    try:
        yield
    except OSError as error:
        log.error(_NOT_WRITTEN, error=str(error))


def _key(job: RecordJob) -> str:
    return f"{job.source}/{job.prepared.record_id}"
