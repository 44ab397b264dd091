"""What travels through the service: where a record came from, its raw bytes, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from schemas import Reason
from virnucpro_core.scoring.results import RecordResult

# What CPython 3.11 and the client need beyond the bytes themselves, measured: for a message its objects and its place
# in the ledger, for a header its tuple, name and value.
_MESSAGE_BYTES = 500
_HEADER_BYTES = 200

Headers = tuple[tuple[str, bytes | None], ...]
"""Kafka headers in their order; a name may stand twice and a value may be null, so this is never a dict."""


class Partition(NamedTuple):
    """A topic's partition."""

    topic: str
    number: int


class Source(NamedTuple):
    """The coordinates of one input message, and the assignment (epoch) under which it was read."""

    partition: Partition
    epoch: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition.topic}/{self.partition.number}/{self.offset}"


@dataclass(frozen=True, slots=True)
class RawMessage:
    """An input message as Kafka gave it, before anything was decoded.

    `timestamp_ms` is None when the broker gave none. `received_at` is monotonic seconds at the poll.
    """

    source: Source
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None
    received_at: float

    @property
    def payload_bytes(self) -> int:
        """Bytes of key, value and headers."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers

    @property
    def size(self) -> int:
        """Bytes that this message holds in memory while it is in flight."""
        return self.payload_bytes + _MESSAGE_BYTES + _HEADER_BYTES * len(self.headers)


@dataclass(frozen=True, slots=True)
class Scored:
    """A record that went all the way."""

    result: RecordResult
    tokens: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that cannot be predicted, and why: it goes to the dead-letter topic."""

    reason: Reason
    stage: str
    detail: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class NotNow:
    """A record that cannot be prepared while a dependency does not answer, and which: it is tried again.

    It says nothing about the record, so it is never an answer; it exists inside the pipeline only.
    """

    detail: str


Outcome = Scored | Refused


@dataclass(frozen=True, slots=True)
class Finished:
    """The pipeline's answer for one message."""

    source: Source
    outcome: Outcome


Level = Literal["open", "hold", "pause"]
"""Whether the service reads: it does; not just now, without telling Kafka; or its partitions are paused."""
Limit = Literal["records", "bytes", "tokens", "breaker", "suspect", "draining"]
"""Why it does not read: a budget that is used up, most records failing, a record that runs alone, or a shutdown."""


class InFlight(NamedTuple):
    """Messages read and not yet answered, their bytes, and the protein tokens that wait for a batch."""

    records: int
    bytes: int
    tokens: int
