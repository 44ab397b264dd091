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

from confluent_kafka import KafkaError

from consumer.ledger import Entry
from consumer.types import Headers, RawMessage, Refused, Scored
from schemas import (
    ChunkPrediction,
    DeadLetter,
    FrameScore,
    Prediction,
    Provenance,
    Reason,
    Verdict,
    encode_dead_letter,
    encode_prediction,
)
from virnucpro_core import __version__
from virnucpro_core.scoring.results import RecordResult

SOURCE_HEADER = "vnp-source"
REASON_HEADER = "vnp-dlq-reason"
CUT_VALUE_BYTES = 256 * 1024
"""What is kept of a value whose dead letter the broker refuses as too large."""
CUT_KEY_BYTES = 16 * 1024
"""What is kept of a key where even that is too large; nothing of the value and of the input's headers is."""
_MOST_CUTS = 2
TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
MENDABLE = (
    *TOO_LARGE,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.INVALID_RECORD,  # so it says when one of a batch has such a timestamp,
    KafkaError._INVALID_DIFFERENT_RECORD,  # and so of the others
)
"""Refusals of the broker that are about one message, and that another form of it may not meet."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to produce; `partition` is None where the key decides."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int | None

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value) + headers


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
        message = entry.message
        match entry.outcome:
            case Scored(result=result):
                value = encode_prediction(self._prediction(message, result))
                answer = self._outgoing(self._predictions, message, value, message.key, message.headers)
            case Refused() as refused:
                letter = _cut(self._dead_letter(message, refused), entry.cuts)
                bare = entry.cuts == _MOST_CUTS
                reason: Headers = ((REASON_HEADER, refused.reason.value.encode()),)
                answer = self._outgoing(
                    self._dead_letters,
                    message,
                    encode_dead_letter(letter),
                    None if bare else message.key,
                    () if bare else message.headers,
                    reason,
                )
            case None:
                raise ValueError(f"{message.source} is not finished")
        return replace(answer, timestamp_ms=None) if entry.timeless else answer

    def mend(self, entry: Entry, code: int) -> bool:
        """Change the answer to an entry so that the broker may take it after all; False if nothing more can be done.

        Args:
            code: why the broker refused it, one of `MENDABLE`.
        """
        if code in TOO_LARGE:
            return self._shrink(entry)
        mended, entry.timeless = not entry.timeless, True
        return mended

    def _shrink(self, entry: Entry) -> bool:
        """A prediction becomes a dead letter that says so; a dead letter keeps the beginning of its value, and then
        neither value nor headers, so that it always fits in the end.
        """
        if isinstance(entry.outcome, Scored):
            size = self.build(entry).size
            detail = f"its prediction of {size} bytes is more than the topic {self._predictions} takes"
            entry.outcome = Refused(Reason.PREDICTION_TOO_LARGE, "deliver", detail)
            return True
        if entry.cuts == _MOST_CUTS:
            return False
        entry.cuts += 1
        return True

    def _outgoing(
        self,
        topic: str,
        message: RawMessage,
        value: bytes,
        key: bytes | None,
        headers: Headers,
        extra: Headers = (),
    ) -> Outgoing:
        source = (SOURCE_HEADER, str(message.source).encode())
        here, there = (self._partition_counts.get(t) for t in (message.source.partition.topic, topic))
        return Outgoing(
            topic=topic,
            partition=message.source.partition.number if here is not None and here == there else None,
            key=key,
            value=value,
            headers=(*headers, source, *extra),
            timestamp_ms=message.timestamp_ms,
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


def _cut(letter: DeadLetter, cuts: int) -> DeadLetter:
    """The letter after so many cuts."""
    if cuts == 0:
        return letter
    if cuts < _MOST_CUTS:
        return replace(letter, value=letter.value and letter.value[:CUT_VALUE_BYTES], truncated=True)
    return replace(letter, value=None, key=letter.key and letter.key[:CUT_KEY_BYTES], truncated=True)
