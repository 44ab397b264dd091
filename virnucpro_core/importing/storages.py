"""Where `torch.save` puts the values of tensors, in both of its formats. Needs no torch."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from virnucpro_core.importing.pickle_program import MOST_BYTES, BeyondBounds
from virnucpro_core.regular_files import check_regular

DTYPES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8"}
"""numpy's name for the elements of each kind of storage that a classifier may have."""
_ITEM_SIZES = {"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "LongStorage": 8}


class StorageRef(NamedTuple):
    """A storage as a pickle names it: its key, one of `DTYPES`, its number of elements."""

    key: str
    kind: str
    elements: int

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.elements * _ITEM_SIZES[self.kind]


def is_zip(path: Path) -> bool:
    """Whether it is of the format that torch.save writes since 1.6.

    Raises:
        UnusableFile: it is not a regular file.
        OSError: the file cannot be read.
    """
    check_regular(path)
    with path.open("rb") as file:
        try:
            return zipfile.is_zipfile(file)
        except zipfile.BadZipFile:  # one whose directory is damaged: `zip_content` says how
            return True


@contextmanager
def zip_content(path: Path) -> Iterator[tuple[IO[bytes], Callable[[StorageRef], bytes]]]:
    """The pickle of a file of the zip format, and what reads a storage of it.

    Raises:
        pickle.UnpicklingError: it is not such a file, or a storage is not in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive, path.stat().st_size)
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise pickle.UnpicklingError("a zip file without a pickle")
            folder = pickles[0].removesuffix("data.pkl")
            order = f"{folder}byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise pickle.UnpicklingError("written on a big-endian machine")

            def read(storage: StorageRef) -> bytes:
                content = archive.read(f"{folder}data/{storage.key}")
                if len(content) != storage.bytes:
                    raise pickle.UnpicklingError(f"storage {storage.key} has {len(content)} bytes")
                return content

            if (size := archive.getinfo(pickles[0]).file_size) > MOST_BYTES:
                raise BeyondBounds(f"a pickle of {size:,} bytes")
            yield io.BytesIO(archive.read(pickles[0])), read
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise pickle.UnpicklingError(str(error)) from error


def _check_entries(archive: zipfile.ZipFile, file_bytes: int) -> None:
    """torch.save compresses nothing and writes every byte once: what unpacks to more than the file is not its."""
    entries = archive.infolist()
    if any(not 0 <= entry.header_offset < file_bytes for entry in entries):
        raise pickle.UnpicklingError("an entry outside the file")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise pickle.UnpicklingError("a compressed entry")
    if sum(entry.file_size for entry in entries) > file_bytes:
        raise pickle.UnpicklingError("entries that overlap")


def read_legacy_storages(file: IO[bytes], keys: Any, refs: Mapping[str, StorageRef]) -> dict[str, bytes]:
    """The storages at the end of a file of the older format, in the order of `keys`.

    Args:
        file: open where the storages begin.
        keys: the list that stands before them, from the pickle.
        refs: what the pickle says of each.

    Raises:
        pickle.UnpicklingError, LookupError, struct.error: they are not as described.
    """
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        if count != refs[key].elements:
            raise pickle.UnpicklingError(f"storage {key} has {count} elements")
        content = file.read(refs[key].bytes)
        if len(content) != refs[key].bytes:
            raise pickle.UnpicklingError("the file ends too early")
        storages[key] = content
    if missing := refs.keys() - storages.keys():
        raise pickle.UnpicklingError(f"storage {min(missing)} is missing")
    return storages
