"""The sha256 of files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_PIECE_BYTES = 1 << 20


def sha256_of(path: Path, done: Callable[[int], None] | None = None) -> str:
    """Of a file's content, in hex; `done` is called with the number of bytes of each piece that was read.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            if done is not None:
                done(len(piece))
    return digest.hexdigest()
