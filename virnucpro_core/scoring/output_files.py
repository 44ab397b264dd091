"""Text files of a run: all complete or none there, compressed where the name says so."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from virnucpro_core.atomic_files import atomic_write

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def _gzip(file: BinaryIO) -> BinaryIO:
    # Without name and time, so that the same content gives the same bytes.
    return cast("BinaryIO", gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0))


_COMPRESSED: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    ".gz": _gzip,
    ".bz2": lambda file: cast("BinaryIO", bz2.BZ2File(file, "wb")),
    ".xz": lambda file: cast("BinaryIO", lzma.LZMAFile(file, "wb")),  # noqa: SIM115 - its user closes it
    ".zst": lambda file: cast("BinaryIO", zstd.ZstdFile(file, "wb")),
}
COMPRESSED_ENDINGS = tuple(_COMPRESSED)
"""Endings of a name that have a file compressed, in either case."""


@contextmanager
def complete_files(*paths: Path) -> Iterator[tuple[TextIO, ...]]:
    """Open text files that take their names, one right after the other, when the block ends well.

    All are written out and closed before the first one takes its name; if anything fails before that, none is there and
    what was there before stays. UTF-8; a name that ends in one of `COMPRESSED_ENDINGS` is compressed.

    Raises:
        OSError: a file cannot be written.
    """
    with atomic_write(*paths) as drafts, ExitStack() as stack:
        yield tuple(_opened(draft, path.suffix, stack) for draft, path in zip(drafts, paths, strict=True))


def _opened(draft: Path, ending: str, stack: ExitStack) -> TextIO:
    file: BinaryIO = stack.enter_context(draft.open("wb"))
    compress = _COMPRESSED.get(ending.lower())
    if compress is not None:
        file = stack.enter_context(compress(file))
    return stack.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline=""))
