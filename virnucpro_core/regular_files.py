"""Reads files that a stranger may have made: regular ones alone, and those that are read whole up to a size."""

from __future__ import annotations

import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnusableFile(ValueError):
    """A file that is not regular, or too large for what it should hold; the message follows its name."""


def check_regular(path: Path) -> None:
    """Refuse what is not a regular file: a pipe may never give a byte, a device may never end.

    Raises:
        UnusableFile: it is something else; the message says what.
        OSError: the file does not exist, or its type cannot be read.
    """
    mode = path.stat().st_mode
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise UnusableFile(f"is {kind}, not a regular file: name the file itself")


def read_small(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        UnusableFile: it is not regular, or larger.
        OSError: it cannot be read.
    """
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UnusableFile(f"has over {most:,} bytes, more than such a file can need: fetch it again")
    return content
