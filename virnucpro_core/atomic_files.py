"""Files that appear under their names only when they are complete: written beside them, renamed at the end."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Give a path to write to for each file, while the block runs.

    The files take their names, one right after the other, when the block ends. If it raises, nothing is left
    behind, and what was there before stays. A file that is replaced keeps its mode, and one that is named through a
    symbolic link is replaced where the link points. Pipes and devices are written directly.

    Raises:
        OSError: a file cannot take its name.
    """
    targets = [path.resolve() for path in paths]
    written = [
        path.with_name(f".{path.name}.{os.getpid()}.part") if _is_plain(path) else path for path in targets
    ]
    pairs = [(part, path) for part, path in zip(written, targets, strict=True) if part != path]
    try:
        yield tuple(written)
        for part, path in pairs:
            _keep_mode(part, path)
            part.replace(path)
    finally:
        for part, _ in pairs:
            part.unlink(missing_ok=True)


def _is_plain(path: Path) -> bool:
    """Whether this is a file, or going to be one. A rename would put a file in the place of a device or pipe."""
    return path.is_file() or not path.exists()


def _keep_mode(part: Path, path: Path) -> None:
    """Give the new file the mode of the one that it replaces."""
    if not path.exists():
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode != stat.S_IMODE(part.stat().st_mode):
        part.chmod(mode)
