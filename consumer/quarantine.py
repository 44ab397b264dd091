"""Which records were on the device when the process died: they are suspects, and one that kills again is set aside.

A record that makes the model raise is found by bisection (`consumer/inference.py`). One that kills the process (a
driver's fault, memory that the kernel takes back) leaves nobody to do that, and after the restart it is read again, and
kills again. So the records of a batch are written to a file, and synced, before the batch runs, and struck off when it
has run. What the next process finds there was running when the last one died:

* after one death nothing changes: something else may have killed it (a deployment, a full node);
* after two a record runs alone, so that it takes no others with it, and others clear themselves;
* a record that was alone at the third is not run again: it becomes a dead letter (`quarantined`).

What runs to its end is cleared. A second SIGTERM, or a node that goes down, counts as a death too: it takes three of
them in the same record's moments, the last with it alone, to set a good record aside.

A record is known by its topic, partition, offset and id, so that a topic made anew meets no old suspicion. Suspicions
are kept for a week. The files lie in `VIRNUCPRO_STATE_DIR`, which must outlive the process (not the machine), two for
each group and instance: `.running` is written for every batch, `.suspects` when a suspicion changes. Two processes of
the same instance id write to the same files; Kafka ends the elder one, and all that is lost is a suspicion.

All methods run on the inference thread.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import structlog

from consumer.batcher import RecordJob
from consumer.errors import ServiceError
from consumer.inference import Suspects, Verdict

log = structlog.get_logger(__name__)

ALONE_AFTER = 2
_KEPT_S = 7 * 86_400.0
_MOST = 10_000


@dataclass(slots=True)
class _Suspicion:
    """How often the process died with this record on the device, whether alone at the last time, and when."""

    deaths: int = 0
    alone: bool = False
    at: float = 0.0

    @property
    def verdict(self) -> Verdict:
        if self.deaths < ALONE_AFTER:
            return "free"
        return "condemned" if self.deaths > ALONE_AFTER and self.alone else "alone"


class Quarantine(Suspects):
    """Keeps the two files of one instance.

    Args:
        folder: made if it is not there, for its owner alone.
        name: of the instance; any text.
        now: wall clock, seconds since 1970-01-01 UTC.

    Raises:
        ServiceError: the folder can't be written to.
    """

    def __init__(self, folder: Path, name: str, now: float | None = None) -> None:
        now = time.time() if now is None else now
        self._suspects_path = folder / f"{quote(name, safe='')}.suspects"
        running_path = self._suspects_path.with_suffix(".running")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._running = os.open(running_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._suspects = self._take_stock(running_path, now)
        except OSError as error:
            raise ServiceError(
                f"the state folder {folder} can't be used ({error.strerror}): set VIRNUCPRO_STATE_DIR to one that "
                "this process may write to"
            ) from error

    def close(self) -> None:
        """Nothing is running any more."""
        os.close(self._running)

    @property
    def count(self) -> int:
        """Records under suspicion."""
        return len(self._suspects)

    # ---- what inference asks and tells ------------------------------------------------------------------------

    def verdict(self, job: RecordJob) -> Verdict:
        suspicion = self._suspects.get(_key(job))
        return suspicion.verdict if suspicion else "free"

    def entering(self, jobs: Sequence[RecordJob]) -> None:
        written = json.dumps([_key(job) for job in jobs]).encode()
        with _told():
            os.pwrite(self._running, written, 0)
            os.ftruncate(self._running, len(written))
            os.fdatasync(self._running)

    def left(self, jobs: Sequence[RecordJob]) -> None:
        with _told():
            os.ftruncate(self._running, 0)

    def cleared(self, job: RecordJob) -> None:
        if self._suspects.pop(_key(job), None) is not None:
            with _told():
                self._save(self._suspects)

    # ---- the files --------------------------------------------------------------------------------------------

    def _take_stock(self, running_path: Path, now: float) -> dict[str, _Suspicion]:
        """The suspicions kept, and those that the last process's end adds."""
        kept = _parsed(self._suspects_path)
        suspects = {
            key: _Suspicion(**suspicion)
            for key, suspicion in (kept.items() if isinstance(kept, dict) else ())
            if now - suspicion["at"] < _KEPT_S
        }
        running = _parsed(running_path)
        if isinstance(running, list) and running:
            for key in running:
                suspicion = suspects.pop(key, _Suspicion())  # to the end: the oldest are dropped first
                suspects[key] = _Suspicion(suspicion.deaths + 1, len(running) == 1, now)
            log.warning("the last process died with records on the device", records=len(running))
        suspects = dict(list(suspects.items())[-_MOST:])
        self._save(suspects)
        os.ftruncate(self._running, 0)
        return suspects

    def _save(self, suspects: dict[str, _Suspicion]) -> None:
        part = self._suspects_path.with_suffix(".part")
        with part.open("w") as file:
            json.dump({key: asdict(suspicion) for key, suspicion in suspects.items()}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._suspects_path)


@contextmanager
def _told() -> Iterator[None]:
    """Without its safety net the service still works."""
    try:
        yield
    except OSError as error:
        log.error("suspects can't be written down: see the disk of the state folder", error=str(error))


def _key(job: RecordJob) -> str:
    return f"{job.source}/{job.prepared.record_id}"


def _parsed(path: Path) -> object:
    """What a file holds, None for one that is empty, absent, or was cut off by a power failure."""
    text = path.read_text() if path.exists() else ""
    try:
        return json.loads(text) if text else None
    except ValueError:
        log.warning("a state file can't be read and is begun anew", path=str(path))
        return None
