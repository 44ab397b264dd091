"""A folder that is made for files, and taken back with its parents when these do not come about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Make a folder and its parents where they are missing; if the block raises, remove those that are still empty.

    Raises:
        OSError: the folder cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise
