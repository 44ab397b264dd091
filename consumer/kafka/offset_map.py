"""Which messages of a partition are done, kept in a group's commit, where done and open messages mix.

The committed offset is that of the first open message. Those behind it that are done stand as a bitmap in the commit's
metadata (zlib, base64), as Confluent's Parallel Consumer keeps them. Offsets without a message (transaction markers)
are no matter: no bit is asked for.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import zlib
from collections.abc import Iterable

METADATA_BYTES = 4096
"""What brokers take by default (`offset.metadata.max.bytes`)."""
_PREFIX = "vnp1:"


class TooManyGaps(ValueError):
    """Done and open messages mix so much that the map does not fit into a commit."""


class OffsetMap:
    """The done messages of one partition. Messages are looked at in the order of their offsets.

    Args:
        position: every message before it is done.
        done: offsets from there on that are done too.
    """

    def __init__(self, position: int, done: Iterable[int] = ()) -> None:
        self._passed = position
        self._done = set(done)
        self._open: list[int] = []  # a heap; what was done since is dropped when it comes to the top

    @classmethod
    def parse(cls, offset: int, metadata: str | None) -> OffsetMap:
        """The map that a commit holds; metadata of other programs holds nothing.

        Raises:
            ValueError: it is damaged.
        """
        if not metadata or not metadata.startswith(_PREFIX):
            return cls(offset)
        try:
            packed = base64.b64decode(metadata.removeprefix(_PREFIX), validate=True)
            bits = int.from_bytes(zlib.decompress(packed), "little")
        except (binascii.Error, zlib.error) as error:
            raise ValueError(f"the metadata of the commit at offset {offset} is damaged ({error})") from error
        shown = bin(bits)[:1:-1]
        return cls(offset, (offset + index for index, bit in enumerate(shown) if bit == "1"))

    @property
    def position(self) -> int:
        """The first message that is not done, and where to go on reading."""
        while self._open and self._open[0] in self._done:
            heapq.heappop(self._open)
        return self._open[0] if self._open else self._passed

    def is_done(self, offset: int) -> bool:
        return offset < self.position or offset in self._done

    def passed(self, offset: int, done: bool) -> None:
        """The next message was looked at, and is done or stays open."""
        if done:
            self._done.add(offset)
        else:
            heapq.heappush(self._open, offset)
        self._passed = max(self._passed, offset + 1)

    def done(self, offset: int) -> None:
        """A message that was left open is done now."""
        self._done.add(offset)

    def reopen(self, offset: int) -> None:
        """A message that was passed as done, and since then not settled, is open again."""
        self._done.discard(offset)
        heapq.heappush(self._open, offset)

    def settled(self) -> None:
        """What `commit` gave was committed: forget what lies before it."""
        start = self.position
        self._done = {offset for offset in self._done if offset >= start}

    def commit(self) -> tuple[int, str]:
        """Offset and metadata of a commit that holds this map.

        Raises:
            TooManyGaps: it does not fit.
        """
        start = self.position
        behind = [offset for offset in self._done if offset >= start]
        if not behind:
            return start, ""
        bitmap = bytearray((max(behind) - start) // 8 + 1)
        for offset in behind:
            bitmap[(offset - start) // 8] |= 1 << (offset - start) % 8
        metadata = _PREFIX + base64.b64encode(zlib.compress(bytes(bitmap), 9)).decode()
        if len(metadata) > METADATA_BYTES:
            raise TooManyGaps(f"{len(metadata)} bytes are more than a commit takes")
        return start, metadata
