"""Files that appear under their names only when they are complete: written beside them, renamed at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def drafts(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Give a path to write to for each file, while the block runs.

    The files take their names, one right after the other, when the block ends. If it raises, nothing is left
    behind, and what was there before stays. Pipes and devices are their own drafts.

    Raises:
        OSError: a file cannot take its name.
    """
    targets = [path.resolve() for path in paths]
    written = [
        path.with_name(f".{path.name}.{os.getpid()}.part") if _is_plain(path) else path for path in targets
    ]
    try:
        yield tuple(written)
        for draft, path in zip(written, targets, strict=True):
            if draft != path:
                draft.replace(path)
    finally:
        for draft, path in zip(written, targets, strict=True):
            if draft != path:
                draft.unlink(missing_ok=True)


def _is_plain(path: Path) -> bool:
    """Is this a file, or going to be one? A rename would put a file in the place of a device or pipe."""
    return path.is_file() or not path.exists()
