"""A record that is published in parts, since it is larger than the broker takes: where it is cut, and what a part says.

The cuts lie between VirNucPro's chunks, so that the chunks of all parts are those of the whole record, each with the
same letters: nothing else goes into a score. The answer of each part carries the part's header, and
`virnucpro_client.joining` makes the answer of the whole of them.
"""

from __future__ import annotations

import re
import uuid
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from schemas import SequenceRecord
from schemas.codecs import Headers, RecordEncoder
from virnucpro_core.sequence.chunks import chunk_spans

PART_HEADER = "virnucpro-part"
"""Header of a published part, with the fields of `Part`. The service copies it to the answer."""
CHUNK_SIZES = (500, 300)
"""Of the published models, in bases; 500 is the default."""
ANY_SIZE = 1 << 62
"""A limit that no record is over."""
_OVERHEAD_BYTES = 2048
"""Of a message beside its encoded record and its key: headers, and what Kafka puts around it."""
_MOST_BYTES_A_LETTER = 12  # of JSON, as two escapes
_NUMBER = r"(\d{1,18})"
_VALUE = re.compile(
    rf"group=([0-9a-f]{{32}});part={_NUMBER}/{_NUMBER};start={_NUMBER};length={_NUMBER};chunk={_NUMBER}",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Part:
    """What the header of a part says.

    Attributes:
        group: names the whole record, 32 hexadecimal digits; each publication of a record has another one.
        number: which part, from 1 to `count`.
        count: parts of the record.
        start: first base of the part in the whole, counted from 0. Neighbouring parts may overlap.
        length: bases of the whole.
        chunk_size: bases of a chunk that the cuts were made for.
    """

    group: str
    number: int
    count: int
    start: int
    length: int
    chunk_size: int

    @property
    def header(self) -> bytes:
        """The value of the header."""
        return (
            f"group={self.group};part={self.number}/{self.count};start={self.start};length={self.length};"
            f"chunk={self.chunk_size}"
        ).encode()


def part_of(headers: Headers) -> Part | None:
    """The part that a message is or answers; None for a whole record, and for a header that says nothing of ours."""
    for name, value in headers:
        if name == PART_HEADER and value is not None:
            found = _VALUE.fullmatch(value.decode("ascii", "replace"))
            if found is not None:
                part = Part(found[1], *map(int, found.groups()[1:]))
                if 1 <= part.number <= part.count and part.chunk_size:
                    return part
    return None


def cuts(length: int, chunk_size: int, max_bases: int) -> list[tuple[int, int]]:
    """Where a sequence is cut so that the chunks of the parts are its own.

    A part holds as many chunks as it may where VirNucPro cuts these letters alone as it cuts them in the whole. That is
    so wherever the whole has more than `chunk_size` chunks; in a shorter one chunks overlap by more than a letter, and
    then a part may hold a single chunk.

    Args:
        length: bases in the sequence, 1 or more.
        chunk_size: bases in a full chunk.
        max_bases: most bases of a part, at least `chunk_size`.

    Returns:
        (start, end) of each part, 0-based, end exclusive, in order.

    Raises:
        ValueError: a chunk does not fit into a part.
    """
    if max_bases < chunk_size:
        raise ValueError(f"a part of {max_bases} bases cannot hold a chunk of {chunk_size}")
    spans = chunk_spans(length, chunk_size)
    ends = [end for _, end in spans]
    found: list[tuple[int, int]] = []
    first = 0
    while first < len(spans):
        start = spans[first][0]
        behind = bisect_right(ends, start + max_bases)
        own = chunk_spans(ends[behind - 1] - start, chunk_size)
        if [(start + a, start + b) for a, b in own] != spans[first:behind]:
            behind = first + 1
        found.append((start, ends[behind - 1]))
        first = behind
    return found


@dataclass(frozen=True, slots=True)
class Piece:
    """One message: a whole record, or a part of one (`part` is None, or says which)."""

    part: Part | None
    value: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class Packer:
    """Makes the messages of a record: one, or several where it is larger than it may be.

    Attributes:
        encoder: the wire format.
        max_bytes: most bytes of a message, its key, headers and what Kafka adds included.
        max_bases: most bases of a record.
        chunk_size: of the service's model, in bases.
    """

    encoder: RecordEncoder
    max_bytes: int
    max_bases: int
    chunk_size: int = CHUNK_SIZES[0]

    def pieces(self, record: SequenceRecord, key: bytes | None) -> Iterator[Piece]:
        """The messages in their order; parts have the id, description and metadata of the record.

        A record that is too large without any base stays whole: it is refused by the broker or the service.

        Raises:
            ValueError, TypeError: the format cannot carry the record.
        """
        room = self._room(record, key)
        length = len(record.sequence)
        if length <= room or room < self.chunk_size:
            yield Piece(None, *self.encoder.encode_record(record))
            return
        found, group = cuts(length, self.chunk_size, room), uuid.uuid4().hex
        for number, (start, end) in enumerate(found, 1):
            part = Part(group, number, len(found), start, length, self.chunk_size)
            encoded = self.encoder.encode_record(replace(record, sequence=record.sequence[start:end]))
            yield Piece(part, encoded.value, (*encoded.headers, (PART_HEADER, part.header)))

    def _room(self, record: SequenceRecord, key: bytes | None) -> int:
        """How many bases a message of this record has room for; exact only where that may matter."""
        texts = [record.id, record.description or "", *record.metadata, *record.metadata.values()]
        besides = _OVERHEAD_BYTES + len(key or b"")
        at_most = besides + sum(_MOST_BYTES_A_LETTER * len(text) + 8 for text in texts)
        if at_most + len(record.sequence) > self.max_bytes:
            at_most = besides + len(self.encoder.encode_record(replace(record, sequence="")).value)
        return min(self.max_bytes - at_most, self.max_bases)


def follow_each_other(parts: list[Part], lengths: list[int]) -> bool:
    """Whether parts in their order, of so many bases each, cover the whole record without a gap."""
    ends = [part.start + length for part, length in zip(parts, lengths, strict=True)]
    joined = all(end >= after.start for end, (_, after) in zip(ends, pairwise(parts), strict=False))
    return joined and parts[0].start == 0 and ends[-1] == parts[0].length
