"""Two small files that name the records on the device, for the process that comes after this one.

One file belongs to the batch that runs, the other to the next batch: its records are written and synced while the
device still computes the batch before it, so that the device need not wait for the disk, and before that batch is
enqueued behind it. Which of the two is running at a process's end is not written, and both may be on the device: after
it the records of both are suspects. A record that runs with nothing else in
flight is written again as it enters (`enter` with `alone`), because it is judged by that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import structlog
from pydantic import ConfigDict, TypeAdapter, ValidationError

from consumer.scoring.state_folder import StateFolder

log = structlog.get_logger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Running:
    """The content of one file: records, and whether the one record was alone in the process."""

    # Fields of another version are not read as if they were this one's.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    alone: bool
    records: list[str]


_RUNNING = TypeAdapter(Running)


class RunningFiles:
    """Opens the two files when they are first needed; every method but `close` raises OSError.

    Args:
        folder: where they lie.
        name: of the first file; the second has `.next` behind it.
    """

    def __init__(self, folder: StateFolder, name: str) -> None:
        self._folder, self._names = folder, (name, f"{name}.next")
        self._files: list[int | None] = [None, None]
        self._current = 0
        self._written: Running | None = None
        self._announced: Running | None = None

    def interrupted(self) -> list[Running]:
        """What an earlier process left, read once at the start."""
        found = (read_state(self._folder, name, _RUNNING) for name in self._names)
        return [running for running in found if running is not None and running.records]

    def forget(self) -> None:
        """Empty both files."""
        for which in (0, 1):
            os.ftruncate(self._opened(which), 0)

    def announce(self, records: Sequence[str]) -> None:
        """Write the records of the next batch into its file, while the other is in use."""
        self._announced = None
        running = Running(False, list(records))
        self._write(1 - self._current, running)
        self._announced = running

    def begin(self) -> None:
        """The next batch is the current one."""
        self._current = 1 - self._current
        self._written, self._announced = self._announced, None

    def enter(self, records: Sequence[str], alone: bool) -> None:
        """See that these records are on disk before they run; `alone`: the one runs with nothing else in flight."""
        running = Running(alone, list(records))
        if self._written != running:
            self._written = None
            self._write(self._current, running)
            self._written = running

    def leave(self) -> None:
        """Nothing of the current batch is on the device."""
        if self._written is not None:
            self._written = None
            os.ftruncate(self._opened(self._current), 0)

    def close(self) -> None:
        """Close the files; safe to call twice."""
        for which, file in enumerate(self._files):
            if file is not None:
                with suppress(OSError):
                    os.close(file)
                self._files[which] = None

    def _opened(self, which: int) -> int:
        """A disk that was full when the file had to be made may have room by now."""
        file = self._files[which]
        if file is None:
            file = self._files[which] = self._folder.open(self._names[which])
        return file

    def _write(self, which: int, running: Running) -> None:
        file, written = self._opened(which), _RUNNING.dump_json(running)
        os.pwrite(file, written, 0)
        os.ftruncate(file, len(written))
        os.fdatasync(file)


def read_state(folder: StateFolder, name: str, form: TypeAdapter[_T]) -> _T | None:
    """What a state file holds; None for one that is empty, absent, damaged, or of another version."""
    try:
        text = folder.read(name)
        return form.validate_json(text) if text else None
    except ValidationError as error:
        why = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
    except ValueError as error:
        why = str(error)
    log.warning("state_file_discarded", file=name, error=why)
    return None
