"""What leaves the service: one prediction or one dead letter for each input message.

Each carries the input's key, headers (in order, duplicates and nulls included) and timestamp, and a header
`vnp-source: topic/partition/offset`, which identifies the input and lets a reader drop what at-least-once delivery may
send twice. A dead letter has `vnp-dlq-reason` besides, so that it can be routed without decoding. Headers of the input
that begin with `vnp-` are left out: a dead letter that is replayed, or a forged header, gives no second `vnp-source`.
So is Confluent's `__value_schema_id`, which names the schema of the input's value: a reader would decode the answer
with it. A dead letter keeps its value as `vnp-dlq-value-schema-id`, since its raw bytes cannot be decoded without.
Where tracing is on, the headers of its propagators (`traceparent`) name the service's own span instead of the input's.
`vnp-dlq-replays` alone goes from a message to its dead letter: it says how often the record was replayed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from consumer.kafka.error_table import PER_MESSAGE, Kind
from consumer.ledger import Entry
from consumer.types import Headers, Outcome, RawMessage, Refused, Scored
from schemas import (
    ChunkPrediction,
    DeadLetter,
    FrameScore,
    Prediction,
    Provenance,
    Reason,
    Verdict,
)
from schemas.codecs import VALUE_SCHEMA_ID, AnswerEncoder, Encoded
from virnucpro_core import __version__
from virnucpro_core.scoring.contig_call import contig_call
from virnucpro_core.scoring.contig_rule import ContigRule
from virnucpro_core.scoring.results import RecordResult

OUR_HEADERS = "vnp-"
"""How the names of the service's own headers begin."""
SOURCE_HEADER = "vnp-source"
REASON_HEADER = "vnp-dlq-reason"
SCHEMA_ID_HEADER = "vnp-dlq-value-schema-id"
REPLAYS_HEADER = "vnp-dlq-replays"
_DIGITS = 6
_RULE = ContigRule()
"""With the numbers that are in use: the documentation of the message's fields names them."""


class _Form(NamedTuple):
    """What is kept of the input in a dead letter: bytes of the value and of the key (None: all), and the headers."""

    value_bytes: int | None
    key_bytes: int | None
    headers: bool


CUT_VALUE_BYTES = 256 * 1024
CUT_KEY_BYTES = 16 * 1024
MIN_KEY_BYTES = 512
_SCHEMA_ID_BYTES = 17  # 01 and a GUID
_FORMS = (
    _Form(None, None, headers=True),
    _Form(CUT_VALUE_BYTES, None, headers=True),
    # Bare. The key stays: a compacted topic takes no message without one.
    _Form(0, None, headers=False),
    _Form(0, CUT_KEY_BYTES, headers=False),
    _Form(0, MIN_KEY_BYTES, headers=False),
)
"""A dead letter, and what is tried in its place while the broker rejects it as too large."""


@dataclass(slots=True, eq=False)
class Answer:
    """The answer to one message, with what rejections by the broker have changed about it.

    `truncations` counts how often it was made smaller, `drop_timestamp` is True when the broker refused the input's
    timestamp. `outcome` becomes a refusal when the prediction is too large for its topic.
    """

    message: RawMessage
    outcome: Outcome
    truncations: int = 0
    drop_timestamp: bool = False

    @classmethod
    def of(cls, entry: Entry) -> Answer:
        """The answer to a finished entry; raises ValueError for one that is not finished."""
        if entry.outcome is None:
            raise ValueError(f"{entry.message.source} is not finished")
        return cls(entry.message, entry.outcome)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to produce; `partition` is None where the key decides."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


def _as_they_are(_message: RawMessage, headers: Headers) -> Headers:
    return headers


class AnswerBuilder:
    """Makes the message that answers an input message.

    Args:
        predictions, dead_letters: topics.
        group_id: named in dead letters.
        provenance: what every prediction says of the model; the source is filled in.
        encoder: the wire format; its headers follow the service's own.
        now_ms: wall clock, milliseconds since 1970-01-01 UTC.
    """

    def __init__(
        self,
        predictions: str,
        dead_letters: str,
        group_id: str,
        provenance: Provenance,
        encoder: AnswerEncoder,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._predictions, self._dead_letters = predictions, dead_letters
        self._group_id, self._provenance, self._now_ms = group_id, provenance, now_ms
        self._encoder = encoder
        self._partition_counts: Mapping[str, int] = {}
        self.trace: Callable[[RawMessage, Headers], Headers] = _as_they_are
        """Given a message and what its answer takes of its headers: these, with the trace that the answer continues."""

    def set_partition_counts(self, counts: Mapping[str, int]) -> None:
        """How many partitions each topic has. An output goes to its input's partition number when the two topics
        have equally many, which keeps the input's order; otherwise its key decides, as for any producer."""
        self._partition_counts = counts

    def build(self, answer: Answer) -> Outgoing:
        """The message to produce for an answer."""
        message = answer.message
        match answer.outcome:
            case Scored(result=result):
                encoded = self._encoder.encode_prediction(self._prediction(message, result))
                out = self._outgoing(self._predictions, message, encoded, message.headers)
            case Refused() as refused:
                form = _FORMS[answer.truncations]
                letter = _cut(self._dead_letter(message, refused), form)
                encoded = self._encoder.encode_dead_letter(letter)
                extra: Headers = ((REASON_HEADER, refused.reason.value.encode()), *_schema_id(message))
                if replays := replays_of(message.headers):
                    extra = (*extra, (REPLAYS_HEADER, str(replays).encode()))
                headers = message.headers if form.headers else ()
                out = self._outgoing(self._dead_letters, message, encoded, headers, extra)
                out = replace(out, key=_first(out.key, form.key_bytes))
        return replace(out, timestamp_ms=None) if answer.drop_timestamp else out

    def amend(self, answer: Answer, kind: Kind) -> bool:
        """Change a rejected answer so that the broker may accept it; False if nothing more can be done.

        Args:
            kind: why the broker rejected it, one of `PER_MESSAGE`.
        """
        assert kind in PER_MESSAGE
        return self.shrink(answer) if kind is Kind.TOO_LARGE else self.drop_timestamp(answer)

    def shrink(self, answer: Answer) -> bool:
        """Make the answer smaller; False if it is as small as it gets.

        A prediction becomes a dead letter that says so. A dead letter keeps the beginning of its value, then neither
        value nor headers, and in the end only the beginning of its key.
        """
        size = self.build(answer).size
        if isinstance(answer.outcome, Scored):
            detail = f"its prediction of {size} bytes is more than the topic {self._predictions} takes"
            answer.outcome = Refused(Reason.PREDICTION_TOO_LARGE, "deliver", detail)
            return True
        for truncations in range(answer.truncations + 1, len(_FORMS)):
            if self.build(replace(answer, truncations=truncations)).size < size:
                answer.truncations = truncations
                return True
        return False

    def drop_timestamp(self, answer: Answer) -> bool:
        """Leave the timestamp to the broker; False if that was done before."""
        dropped, answer.drop_timestamp = not answer.drop_timestamp, True
        return dropped

    def _outgoing(
        self, topic: str, message: RawMessage, encoded: Encoded, headers: Headers, extra: Headers = ()
    ) -> Outgoing:
        source = (SOURCE_HEADER, str(message.source).encode())
        here, there = (self._partition_counts.get(t) for t in (message.source.partition.topic, topic))
        foreign = (header for header in headers if not _is_ours(header[0]))
        return Outgoing(
            topic=topic,
            partition=message.source.partition.number if here is not None and here == there else None,
            key=message.key,
            value=encoded.value,
            headers=(*self.trace(message, tuple(foreign)), source, *extra, *encoded.headers),
            timestamp_ms=message.timestamp_ms,
        )

    def _prediction(self, message: RawMessage, result: RecordResult) -> Prediction:
        partition, _, offset = message.source
        call = contig_call(result, _RULE)
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
            **(call.as_dict() if call else {}),
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


def replays_of(headers: Headers) -> int:
    """How often a message was replayed, by its header; 0 without one, and for one that is not a number."""
    counts = [value for name, value in headers if name == REPLAYS_HEADER and value is not None]
    return max((int(count) for count in counts if count.isdigit() and len(count) <= _DIGITS), default=0)


def input_headers(headers: Headers) -> Headers:
    """Of the headers of a dead letter, those that its input had, as far as they were kept."""
    kept = tuple(header for header in headers if not _is_ours(header[0]))
    schema_id = tuple((VALUE_SCHEMA_ID, value) for name, value in headers if name == SCHEMA_ID_HEADER)
    return (*kept, *schema_id)


def _is_ours(name: str) -> bool:
    """Whether a header of that name says something of the message that it is on, and is not copied to the answer."""
    return name.startswith(OUR_HEADERS) or name == VALUE_SCHEMA_ID


def _cut(letter: DeadLetter, form: _Form) -> DeadLetter:
    if form == _FORMS[0]:
        return letter
    value = None if form.value_bytes == 0 else _first(letter.value, form.value_bytes)
    return replace(letter, value=value, key=_first(letter.key, form.key_bytes), truncated=True)


def _schema_id(message: RawMessage) -> Headers:
    """The header that keeps the id of the value's schema; none where the input has no valid one."""
    held = [value for name, value in message.headers if name == VALUE_SCHEMA_ID]
    if not held or held[-1] is None or len(held[-1]) > _SCHEMA_ID_BYTES:
        return ()
    return ((SCHEMA_ID_HEADER, held[-1]),)


def _first(data: bytes | None, count: int | None) -> bytes | None:
    return data if data is None or count is None else data[:count]
