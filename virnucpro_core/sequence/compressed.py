"""Decompress gzip, bzip2, xz and Zstandard while reading, by the rules of their command-line tools.

Python's file classes take an error at the head of a later stream for trailing bytes and end there without a word
(bz2, lzma), or know no padding. Here a file is a sequence of streams that are all read:

    stream [padding] stream [padding] ... [trailing bytes]

| format | zero bytes after a stream | other bytes after the last stream |
| --- | --- | --- |
| gzip | padding | passed over with a warning |
| bzip2 | trailing bytes | passed over with a warning |
| xz | padding, in multiples of four | an error |
| Zstandard | an error | an error |

Trailing bytes that hold a stream, or begin like one with a damaged head, are an error in every format: passing over
them would lose records.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

try:
    from zlib_ng import zlib_ng as inflate
except ImportError:
    # It is for the usual processors only; the original takes twice as long, and gives the same.
    import zlib as inflate  # type: ignore[no-redef]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK = 64 * 1024
_XZ_MEMORY = 1 << 30
"""Bytes that an xz stream's dictionary may take: sixteen times what `xz -9` asks for."""


class CompressedDataError(ValueError):
    """Compressed data that cannot be read to its end; the message follows the name of the file."""


class _Decompressor(Protocol):
    """One stream, as `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipDecompressor:
    """One gzip member; `inflate.decompressobj` in the form of the other formats' decompressors."""

    def __init__(self) -> None:
        self._member = inflate.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._member.decompress(self._member.unconsumed_tail + data, max_length)
        # A full output may leave more behind, even when all input is consumed.
        self.needs_input = not self._member.unconsumed_tail and len(out) < max_length
        return out


@dataclass(frozen=True)
class _Trailing:
    """Bytes after the last stream that the format's own tool passes over.

    Attributes:
        head: how a stream begins, to distinguish a damaged stream from other bytes.
        stream: finds a stream among other bytes; at most as long as `head`.
    """

    head: bytes
    stream: re.Pattern[bytes]


@dataclass(frozen=True)
class _Format:
    """
    Attributes:
        heads: the first bytes of a stream, one of them.
        new: makes the decompressor of one stream.
        errors: what that raises for damaged data.
        padding: zero bytes may follow a stream in multiples of this; 0 if none may.
        trailing: None if nothing else may follow.
    """

    heads: tuple[bytes, ...]
    new: Callable[[], _Decompressor]
    errors: type[Exception]
    padding: int = 0
    trailing: _Trailing | None = None


_SKIPPABLE = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))
_FORMATS = (
    _Format(
        (b"\x1f\x8b",),
        _GzipDecompressor,
        cast("type[Exception]", inflate.error),
        padding=1,
        trailing=_Trailing(b"\x1f\x8b\x08", re.compile(rb"\x1f\x8b\x08")),
    ),
    _Format(
        (b"BZh",),
        bz2.BZ2Decompressor,
        OSError,
        trailing=_Trailing(b"BZh91AY&SY", re.compile(rb"BZh[1-9]1AY&SY")),
    ),
    _Format(
        (b"\xfd7zXZ\x00",),
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY),
        lzma.LZMAError,
        padding=4,
    ),
    _Format((b"\x28\xb5\x2f\xfd", *_SKIPPABLE), zstd.ZstdDecompressor, zstd.ZstdError),
)


class Decompressed(io.BufferedReader):
    """The content of a file."""

    def __init__(self, content: io.RawIOBase, source: _Lookahead) -> None:
        super().__init__(content, _CHUNK)
        self._source = source

    @property
    def last_stream_bytes(self) -> int | None:
        """How much the compressed stream held that was read last; None if the file is not compressed."""
        return self._source.stream_bytes


def decompressed(file: io.BufferedIOBase, warn: Callable[[str], None]) -> Decompressed:
    """The content of a file, decompressed if its first bytes are those of a compression format.

    Data is read as it comes and in bounded chunks, however small the file is for what it holds.

    Args:
        file: open for reading; stays open.
        warn: called with one line, to follow the name of the file, when bytes after the compressed data are
            passed over.

    Raises:
        CompressedDataError: by the returned reader's methods, when the data is truncated or damaged, or when
            bytes follow that the format does not allow there.
    """
    source = _Lookahead(file)
    for form in _FORMATS:
        if source.starts_with(form.heads):
            return Decompressed(_Chunks(_decompress(source, form, warn)), source)
    return Decompressed(source, source)


class _Lookahead(io.RawIOBase):
    """A file whose next bytes can be looked at without waiting for more than are needed.

    Attributes:
        stream_bytes: how much the stream held so far that is decompressed; None before the first one.
    """

    stream_bytes: int | None = None

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self._ahead = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = self.take(len(view))
        view[: len(data)] = data
        return len(data)

    def take(self, size: int = _CHUNK) -> bytes:
        """The next bytes, at most `size`, as they come; b"" at the end."""
        if not self._ahead:
            return self._file.read1(size)
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    def put_back(self, data: bytes) -> None:
        """Let `data` be the next bytes, before those that are next now."""
        self._ahead = data + self._ahead

    def starts_with(self, heads: tuple[bytes, ...]) -> bool:
        """Whether the next bytes are one of `heads`; reads on only while they may become one."""
        while not self._ahead.startswith(heads) and any(head.startswith(self._ahead) for head in heads):
            more = self._file.read1(_CHUNK)
            if not more:
                return False
            self._ahead += more
        return self._ahead.startswith(heads)

    def skip_zeros(self) -> int:
        """Pass over zero bytes; returns how many there were."""
        count = 0
        while data := self.take():
            rest = data.lstrip(b"\0")
            count += len(data) - len(rest)
            if rest:
                self.put_back(rest)
                break
        return count


class _Chunks(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        view = memoryview(buffer)
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _decompress(source: _Lookahead, form: _Format, warn: Callable[[str], None]) -> Iterator[bytes]:
    """The content of all streams, in chunks of at most 64 KiB."""
    while True:
        stream = form.new()
        source.stream_bytes = 0
        while not stream.eof:
            data = b""
            if stream.needs_input:
                data = source.take()
                if not data:
                    raise _truncated()
            try:
                chunk = stream.decompress(data, _CHUNK)
            except form.errors as error:
                raise _failed(error) from error
            source.stream_bytes += len(chunk)
            yield chunk
        source.put_back(stream.unused_data)
        if not _another_stream(source, form, warn):
            return


def _another_stream(source: _Lookahead, form: _Format, warn: Callable[[str], None]) -> bool:
    """Whether a stream follows; checks what stands in its place."""
    zeros = source.skip_zeros() if form.padding else 0
    if form.padding and zeros % form.padding:
        raise _damaged(f"{zeros} zero bytes after a stream, not a multiple of {form.padding}")
    if source.starts_with(form.heads):
        return True
    data = source.take()
    if not data:
        return False
    if any(head.startswith(data) for head in form.heads):
        raise _truncated()
    if form.trailing is None:
        raise _damaged(f"{data[:8]!r} stands where another stream may begin")
    source.put_back(data)
    count = _trailing_bytes(source, form.trailing)
    warn(
        f"has {count:,} bytes after its compressed data, which are passed over: if records are missing, copy or "
        "download it again"
    )
    return False


def _trailing_bytes(source: _Lookahead, trailing: _Trailing) -> int:
    """Read to the end; returns how many bytes there were, none of them of a stream."""
    size = len(trailing.head)
    count = 0
    start = end = b""
    while data := source.take():
        start += data[: size - len(start)]
        if trailing.stream.search(end + data):
            raise _damaged("bytes that are not compressed data stand before another stream")
        end = (end + data)[-size:]
        count += len(data)
    if 2 * sum(a == b for a, b in zip(start, trailing.head, strict=False)) > size:
        raise _damaged("the head of a later stream is wrong")
    return count


def _failed(error: Exception) -> CompressedDataError:
    why = " ".join(str(error).split())[:200]
    if "memory" in why.lower():
        return CompressedDataError(
            f"cannot be read: it was compressed with an unusually large window ({why}); decompress it first, with "
            "xz -d or zstd -d --long=31"
        )
    return _damaged(why)


def _truncated() -> CompressedDataError:
    return CompressedDataError(
        "ends in the middle of its compressed data: it is truncated, copy or download it again"
    )


def _damaged(why: str) -> CompressedDataError:
    return CompressedDataError(
        f"cannot be read: its compressed data is damaged ({why}); copy or download it again"
    )
