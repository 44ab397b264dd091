"""What leaves the service: one prediction or one dead letter for each input message.

Each carries the input's key, headers (in order, duplicates and nulls included) and timestamp, and a header
`vnp-source: topic/partition/offset`, which names the input for good and lets a reader drop what at-least-once
delivery may send twice. A dead letter has `vnp-dlq-reason` besides, so that it can be routed without decoding.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from consumer.ledger import Entry
from consumer.work import Headers, RawMessage, Refused, Scored
from schemas import (
    ChunkPrediction,
    DeadLetter,
    FrameScore,
    Prediction,
    Provenance,
    Verdict,
    encode_dead_letter,
    encode_prediction,
)
from virnucpro_core import __version__
from virnucpro_core.assemble import RecordResult

SOURCE_HEADER = "vnp-source"
REASON_HEADER = "vnp-dlq-reason"
TRUNCATED_BYTES = 256 * 1024
"""What is kept of a value whose dead letter the broker refuses as too large."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to produce; `partition` is None where the key decides.

    `letter` is the dead letter inside, kept for the case that it has to be cut down.
    """

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int | None
    letter: DeadLetter | None = None

    def truncated(self) -> Outgoing | None:
        """The same dead letter with the beginning of its value; None if there is nothing left to cut."""
        if self.letter is None or self.letter.truncated or self.letter.value is None:
            return None
        letter = replace(self.letter, value=self.letter.value[:TRUNCATED_BYTES], truncated=True)
        return replace(self, value=encode_dead_letter(letter), letter=letter)


class OutgoingBuilder:
    """Makes the answer for a finished message.

    Args:
        predictions, dead_letters: topics.
        group_id: named in dead letters.
        provenance: what every prediction says of the model; the source is filled in.
        now_ms: wall clock, milliseconds since 1970-01-01 UTC.
    """

    def __init__(
        self,
        predictions: str,
        dead_letters: str,
        group_id: str,
        provenance: Provenance,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._predictions, self._dead_letters = predictions, dead_letters
        self._group_id, self._provenance, self._now_ms = group_id, provenance, now_ms
        self._partition_counts: Mapping[str, int] = {}

    def set_partition_counts(self, counts: Mapping[str, int]) -> None:
        """How many partitions each topic has. An output goes to its input's partition number when the two topics
        have equally many, which keeps the input's order; otherwise its key decides, as for any producer."""
        self._partition_counts = counts

    def build(self, entry: Entry) -> Outgoing:
        """The message that answers a finished entry; raises ValueError for one that isn't finished."""
        match entry.outcome:
            case Scored(result=result):
                prediction = self._prediction(entry.message, result)
                return self._outgoing(self._predictions, entry.message, encode_prediction(prediction))
            case Refused() as refused:
                letter = self._dead_letter(entry.message, refused)
                headers = ((REASON_HEADER, refused.reason.value.encode()),)
                value = encode_dead_letter(letter)
                return self._outgoing(self._dead_letters, entry.message, value, headers, letter)
        raise ValueError(f"{entry.message.source} is not finished")

    def _outgoing(
        self,
        topic: str,
        message: RawMessage,
        value: bytes,
        extra: Headers = (),
        letter: DeadLetter | None = None,
    ) -> Outgoing:
        source = (SOURCE_HEADER, str(message.source).encode())
        here, there = (self._partition_counts.get(t) for t in (message.source.partition.topic, topic))
        return Outgoing(
            topic=topic,
            partition=message.source.partition.number if here is not None and here == there else None,
            key=message.key,
            value=value,
            headers=(*message.headers, source, *extra),
            timestamp_ms=message.timestamp_ms,
            letter=letter,
        )

    def _prediction(self, message: RawMessage, result: RecordResult) -> Prediction:
        partition, _, offset = message.source
        chunks = tuple(
            ChunkPrediction(
                name=chunk.name,
                start=chunk.start,
                end=chunk.end,
                verdict=Verdict(chunk.verdict),
                frames=tuple(FrameScore(frame.label, frame.others, frame.virus) for frame in chunk.frames),
            )
            for chunk in result.chunks
        )
        return Prediction(
            id=result.record_id,
            length=result.length,
            verdict=Verdict(result.verdict),
            virus_score=result.virus_score,
            others_score=result.others_score,
            chunks=chunks,
            provenance=replace(
                self._provenance,
                source_topic=partition.topic,
                source_partition=partition.number,
                source_offset=offset,
            ),
        )

    def _dead_letter(self, message: RawMessage, refused: Refused) -> DeadLetter:
        partition, _, offset = message.source
        return DeadLetter(
            reason=refused.reason,
            detail=refused.detail,
            stage=refused.stage,
            value=message.value,
            key=message.key,
            truncated=False,
            value_sha256=None if message.value is None else hashlib.sha256(message.value).hexdigest(),
            source_topic=partition.topic,
            source_partition=partition.number,
            source_offset=offset,
            source_timestamp_ms=message.timestamp_ms,
            group_id=self._group_id,
            attempts=refused.attempts,
            software_version=__version__,
            failed_at_ms=self._now_ms(),
        )
