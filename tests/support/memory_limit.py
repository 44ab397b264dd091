"""Bounds the memory of a child process: by a control group where this process may make one, else by RLIMIT_DATA.

A control group counts what the process really has in memory, as a container does, and the kernel kills the process that
needs more. RLIMIT_DATA counts what it has reserved, and lets an allocation fail. (RLIMIT_AS would count the libraries
and files that are mapped as well, of which torch alone has gigabytes.)

The parent makes a limit, gives its `variables` to the child's environment, and the child calls `enter` before all else.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_GROUP, _DATA = "TEST_MEMORY_GROUP", "TEST_MEMORY_RLIMIT_DATA"
_MOUNTS = Path("/sys/fs/cgroup")
_END_S = 5.0


class MemoryLimit(Protocol):
    """A bound on the memory of one process after another."""

    @property
    def kind(self) -> str:
        """What bounds it, for people."""

    @property
    def variables(self) -> Mapping[str, str]:
        """For the environment of the child."""

    def peak(self) -> int | None:
        """The most bytes that were in use; None where that is not counted."""

    def remove(self) -> None:
        """Take it away; no process of it runs any more."""


@dataclass(frozen=True)
class GroupLimit:
    """A control group of its own, in `folder`, whose file `peak_file` has the most bytes in use."""

    kind: str
    folder: Path
    peak_file: str

    @property
    def variables(self) -> Mapping[str, str]:
        return {_GROUP: str(self.folder)}

    def peak(self) -> int | None:
        try:
            return int((self.folder / self.peak_file).read_text())
        except OSError:
            return None

    def remove(self) -> None:
        deadline = time.monotonic() + _END_S
        while self.folder.exists() and time.monotonic() < deadline:
            with suppress(OSError):  # busy until the last process is gone
                self.folder.rmdir()
            time.sleep(0.02)


@dataclass(frozen=True)
class DataLimit:
    """RLIMIT_DATA, in bytes."""

    limit: int
    kind: str = "RLIMIT_DATA"

    @property
    def variables(self) -> Mapping[str, str]:
        return {_DATA: str(self.limit)}

    def peak(self) -> int | None:
        return None

    def remove(self) -> None:
        """Nothing is left of it."""


def memory_limit(name: str, limit: int) -> MemoryLimit:
    """A limit in bytes; `name` is part of the control group's."""
    for kind, parent, limit_file, peak_file in _parents():
        folder = parent / f"{name}-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        group = GroupLimit(kind, folder, peak_file)
        try:
            # A file that is not there must not be created: the file system of groups refuses, another would not.
            with (folder / limit_file).open("r+") as file:
                file.write(str(limit))
        except OSError:
            group.remove()
            continue
        return group
    return DataLimit(limit)


def enter(environment: Mapping[str, str] = os.environ) -> None:
    """Put this process under the limit that its environment names, if it names one."""
    if group := environment.get(_GROUP):
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    elif data := environment.get(_DATA):
        resource.setrlimit(resource.RLIMIT_DATA, (int(data), int(data)))


def _parents() -> list[tuple[str, Path, str, str]]:
    """The control groups of this process that count memory: what to call each, its folder, the names of two files."""
    found = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                own = _MOUNTS / "memory" / path.lstrip("/")
                found.append(
                    ("control group (v1)", own, "memory.limit_in_bytes", "memory.max_usage_in_bytes")
                )
            elif number == "0":
                own = _MOUNTS / path.lstrip("/")
                found.append(("control group (v2)", own, "memory.max", "memory.peak"))
    return found
