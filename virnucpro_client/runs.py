"""A run: what was published in one go, and where its answers will be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RUN_HEADER = "virnucpro-run"
"""Header of a published record: `RUN/NUMBER`. The service copies it to the answer."""


@dataclass(frozen=True)
class Run:
    """The records of one call of `Client.publish`, in a form that can be kept: it holds no open client.

    Attributes:
        run_id: names the run in the header `virnucpro-run` of its records and answers.
        ids: the id of each record that the broker has acknowledged, by its number in the iterable.
        sources: `topic/partition/offset` of a record -> its number. A record that the client sent twice, since the
            first acknowledgement was lost, is not in it; its header names it still.
        starts: (topic, partition) of answers -> the offset from which they are read.
    """

    run_id: str
    ids: dict[int, str] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    starts: Mapping[tuple[str, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def header(self, number: int) -> bytes:
        """The value of the header of a record."""
        return f"{self.run_id}/{number}".encode()

    def number_of(self, header: bytes | None, source: str) -> int | None:
        """Which record of this run an answer is for: by its header, else by its source; None for another run's."""
        if header is None:
            return self.sources.get(source)  # a dead letter that was cut has no headers of the input
        run_id, _, number = header.decode("utf-8", "replace").rpartition("/")
        return int(number) if run_id == self.run_id and number.isascii() and number.isdigit() else None
