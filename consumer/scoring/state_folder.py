"""The folder of state files. Other users may be able to write to its parent, so it and its files are checked.

Its default place is in the system's folder for temporary files, where another user can make a folder of the same name
first, or put a link in place of a file so that the service overwrites what the link points at. So no link is followed,
and the folder and every file must belong to this user and be writable by no other user. Files are opened
relative to the checked folder, which therefore cannot be exchanged in between.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from consumer.errors import ServiceError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_MOST_BYTES = 64 << 20
_MOST_LETTERS = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe would wait for its other end.
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def file_name(name: str) -> str:
    """The name of any text as the beginning of a file's name, at most 200 letters; no two texts share one."""
    quoted = quote(name, safe="")
    return quoted if len(quoted) <= _MOST_LETTERS else sha256(name.encode()).hexdigest()


def unusable(path: Path | str, error: OSError) -> ServiceError:
    """The end of a start whose state folder cannot be used."""
    return ServiceError(
        f"the state folder {path} can't be used ({error.strerror}): set VIRNUCPRO_STATE_DIR to one that this user, "
        "and no other, may write to"
    )


class StateFolder:
    """Opens, reads and replaces the files of one folder.

    Args:
        path: made for its owner alone if it is not there; parents too.

    Raises:
        OSError: by every method; the folder or file cannot be used, is a link, belongs to another user, or others
            may write to it. `strerror` is the cause.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder: int | None = None

    def close(self) -> None:
        """Close the folder, not the files."""
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def open(self, name: str) -> int:
        """The descriptor of a file, to read and write; an empty file is made if there is none."""
        return self._checked_file(name, os.O_RDWR | os.O_CREAT)

    def read(self, name: str) -> bytes:
        """What a file holds; empty if there is none.

        Raises:
            ValueError: it holds more than 64 MiB.
        """
        try:
            file = self._checked_file(name, os.O_RDONLY)
        except FileNotFoundError:
            return b""
        with os.fdopen(file, "rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it holds more than {_MOST_BYTES} bytes")
        return data

    def replace(self, name: str, data: bytes) -> None:
        """Give a file new content, wholly or not at all."""
        folder = self._opened()
        part = f"{name}.part"
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=folder)
        file = os.open(part, _FILE | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        with os.fdopen(file, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)

    def _opened(self) -> int:
        """The folder's descriptor. A disk that was full when the folder had to be made may have room by now."""
        if self._folder is None:
            if self._path.is_symlink():
                raise PermissionError(errno.EPERM, "it is a symbolic link")
            with suppress(FileExistsError):
                self._path.mkdir(mode=0o700, parents=True)
            folder = os.open(self._path, _DIRECTORY)
            self._folder = _checked(folder, "it")
        return self._folder

    def _checked_file(self, name: str, flags: int) -> int:
        try:
            file = os.open(name, _FILE | flags, 0o600, dir_fd=self._opened())
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise PermissionError(errno.EPERM, f"the file {name} in it is a symbolic link") from error
        return _checked(file, f"the file {name} in it", regular=True)


def _checked(opened: int, what: str, *, regular: bool = False) -> int:
    """The descriptor, if this user alone may write to what it stands for; closed if not."""
    found = os.fstat(opened)
    mode = stat.S_IMODE(found.st_mode)
    cause = ""
    if regular and not stat.S_ISREG(found.st_mode):
        cause = "is not a regular file"
    elif found.st_uid != os.geteuid():
        cause = f"belongs to user {found.st_uid}, not to {os.geteuid()}"
    elif mode & (stat.S_IWGRP | stat.S_IWOTH):
        cause = f"may be written by other users, mode {mode:03o}"
    elif regular and found.st_nlink > 1:
        cause = f"has {found.st_nlink} hard links"
    if cause:
        os.close(opened)
        raise PermissionError(errno.EPERM, f"{what} {cause}")
    return opened
