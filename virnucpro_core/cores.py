"""How many of the machine's cores this process may use: by its affinity, and by the quota of its control group.

A container that may use two of 64 cores sees all of them; 64 threads that share two cores wait for each other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores(mount: Path = _MOUNT, own: Path = _OWN) -> int:
    """Whole cores, at least 1; a part of one counts as one.

    Args:
        mount: where control groups (version 2, or `cpu` of version 1) are mounted.
        own: the file that names this process's groups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(mount, own))]))


def _quotas(mount: Path, own: Path) -> Iterator[float]:
    """Cores that this process's group, or one above it, may use, where there is a limit."""
    for folder in _folders(mount, own):
        # Version 2: "200000 100000", or "max 100000"; version 1: two files, -1 without a limit.
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        quota, period = (
            quota or _text(folder / "cpu.cfs_quota_us"),
            period or _text(folder / "cpu.cfs_period_us"),
        )
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _folders(mount: Path, own: Path) -> Iterator[Path]:
    """Of this process's groups and all above them. In a container their names may be those of the host: then only the
    topmost, which is the container's own, is there."""
    for line in _text(own).splitlines():
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mount / "cpu" if controllers else mount
        folder = top / name.lstrip("/")
        yield from (folder, *(each for each in folder.parents if each.is_relative_to(top)))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
