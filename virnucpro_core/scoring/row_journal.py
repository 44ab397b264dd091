"""The rows of a run on disk, frame by frame, so that a run that was killed can go on.

A journal is a line of JSON that says what run it is of, and then a block for each batch: the number of its frames, a
checksum, and for each frame the number of its record in the file, its number in the record, and its row. The frames of
a file are computed in the file's order, so the journal is read back beside it and never held in memory. A block that is
incomplete or damaged ends it. The outputs are made again from the rows, so nothing else is kept.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.errors import CoreError
from virnucpro_core.scoring.verdicts import CLASSES

_KIND, _VERSION = "virnucpro predict", 1
_FRAME = np.dtype([("record", "<u8"), ("frame", "<u4"), ("row", "<f4", (len(CLASSES),))])
_BLOCK = struct.Struct("<II")
"""Frames of the block; CRC-32 of what follows."""
_LONGEST_HEADER = 1 << 16
_SYNC_EVERY_S = 1.0
_HELD = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system without locks answers."""

Identity = Mapping[str, Any]
"""What decides on the rows of a run, for JSON: its input, model and settings."""
Place = tuple[int, int]
"""A frame: the number of its record in the file, from 0, and its number in the record, from 0."""


class JournalError(CoreError):
    """A journal that cannot be used; the message is one line with the cause and the cure."""


class RowJournal:
    """Opens a journal, or makes one, and locks it until `close`. `begin` comes before all that reads or writes rows.

    What is appended is in the hands of the system at once, so that it survives the process. It is on disk with the
    first batch that ends a second or more after the last time. One thread at a time.

    Args:
        path: the file.
        clock: seconds.

    Attributes:
        path: as given.

    Raises:
        JournalError: another process writes it, or the file is something else.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = monotonic) -> None:
        self.path, self._clock = path, clock
        # Neither truncated nor written before it is known what it is.
        # Without a buffer, which would be written out once more by `close` after the disk was full.
        self._file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        try:
            self._lock()
            self._found, self._first = self._read_header()
            self._end = self._end_of_blocks()
        except BaseException:
            self._file.close()
            raise
        self._begun = False
        self._read_at = self._read_until = self._end
        self._block = np.empty(0, dtype=_FRAME)
        self._next = 0
        self._synced_at = clock()

    @property
    def has_rows(self) -> bool:
        """Whether it holds a complete block."""
        return self._end > self._first

    @property
    def is_begun(self) -> bool:
        """Whether it is of the run of this process."""
        return self._begun

    def begin(self, identity: Identity) -> None:
        """Go on with the run of this identity, or begin it if there are no rows.

        Raises:
            JournalError: the rows are of another run.
            OSError: it cannot be written.
        """
        identity = json.loads(json.dumps(identity))
        if self.has_rows:
            if self._found != identity:
                raise JournalError(
                    f"{self.path} is of another run ({_difference(self._found or {}, identity)}): repeat the command "
                    "that it is of, or delete it to begin again"
                )
        else:
            self._file.seek(0)
            header = json.dumps({"journal": _KIND, "version": _VERSION, "run": identity}).encode() + b"\n"
            self._write(header)
            self._first = self._end = len(header)
        self._file.truncate(self._end)
        self._sync()
        self._read_at, self._read_until = self._first, self._end
        self._begun = True

    def rows_of(self, record: int) -> dict[int, NDArray[np.float32]]:
        """The rows of a record that were there at the beginning, by frame; asked for in the order of records."""
        found = {}
        while self._next < len(self._block) or self._read_block():
            entry = self._block[self._next]
            if entry["record"] > record:
                break
            # A smaller number: a record that failed in an earlier run, and was computed when that was resumed.
            if entry["record"] == record:
                found[int(entry["frame"])] = entry["row"].astype(np.float32)
            self._next += 1
        return found

    def append(self, places: Sequence[Place], rows: NDArray[np.float32]) -> None:
        """Keep the rows of a batch, float32 [frames, 2].

        Raises:
            ValueError: `rows` has another shape.
            OSError: it cannot be written.
        """
        if rows.shape != (len(places), len(CLASSES)):
            raise ValueError(f"rows of shape {rows.shape} for {len(places)} frames")
        if not places:
            return
        entries = np.empty(len(places), dtype=_FRAME)
        entries["record"], entries["frame"] = np.array(places, dtype=np.int64).T
        entries["row"] = rows
        content = entries.tobytes()
        self._file.seek(self._end)
        self._write(_BLOCK.pack(len(places), zlib.crc32(content)) + content)
        self._end += _BLOCK.size + len(content)
        if self._clock() - self._synced_at >= _SYNC_EVERY_S:
            self._sync()

    def close(self) -> None:
        """Keep the file for another process if it has rows, else remove it."""
        if self._file.closed:
            return
        if self.has_rows:
            self._sync()
        else:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def remove(self) -> None:
        """The run is complete: remove the file."""
        self.path.unlink(missing_ok=True)
        self._file.close()

    def _lock(self) -> None:
        is_held = False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            is_held = error.errno in _HELD
            if not is_held and error.errno not in _NO_LOCKS:
                raise
        if is_held or not os.fstat(self._file.fileno()).st_nlink:  # removed by a run that has just ended
            raise JournalError(
                f"another process is writing {self.path}: wait until it ends, or name another output"
            )

    def _read_header(self) -> tuple[Identity | None, int]:
        """What run the file is of, and where its blocks begin; None and 0 for a new file."""
        line = self._file.readline(_LONGEST_HEADER)
        if not line:
            return None, 0
        try:
            header = json.loads(line)
            if line.endswith(b"\n") and (header["journal"], header["version"]) == (_KIND, _VERSION):
                return header["run"], len(line)
        except (ValueError, LookupError, TypeError):
            pass
        raise JournalError(
            f"{self.path} is not a journal of this version's `predict`: move it away, or name another output"
        )

    def _end_of_blocks(self) -> int:
        """Where the last complete block ends, if all before it are complete."""
        end, size = self._first, os.fstat(self._file.fileno()).st_size
        self._file.seek(end)
        while len(head := self._file.read(_BLOCK.size)) == _BLOCK.size:
            frames, checksum = _BLOCK.unpack(head)
            after = end + _BLOCK.size + frames * _FRAME.itemsize
            # A system that loses power can leave zeros, or nothing, where a block was to be.
            if (
                not frames
                or after > size
                or zlib.crc32(self._file.read(frames * _FRAME.itemsize)) != checksum
            ):
                break
            end = after
        return end

    def _read_block(self) -> bool:
        """Take the next block of those that were there at the beginning; False if there is none."""
        if self._read_at >= self._read_until:
            return False
        self._file.seek(self._read_at)
        frames, _ = _BLOCK.unpack(self._file.read(_BLOCK.size))
        self._block = np.frombuffer(self._file.read(frames * _FRAME.itemsize), dtype=_FRAME)
        self._next = 0
        self._read_at += _BLOCK.size + frames * _FRAME.itemsize
        return True

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced_at = self._clock()


def _difference(was: Identity, now: Identity) -> str:
    """The first thing in which two runs differ."""
    for name in {**was, **now}:
        before, after = was.get(name), now.get(name)
        if before != after:
            return f"its {name.replace('_', ' ')} is {before}, now it is {after}"
    raise ValueError("the runs do not differ")
