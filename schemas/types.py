"""The messages of the service as Python values, one class for each Avro record.

Field meanings, units and allowed words are documented once, in ``schemas/avsc/*.avsc``;
the classes here have the same fields in the same order.  Positions are 0-based bases with
exclusive ends.  Scores are float32: a Python float that float32 cannot hold is rounded on
the wire.  Nothing is checked on construction: `schemas.avro` refuses what Avro cannot carry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What a sequence or a chunk was called."""

    VIRUS = "virus"
    OTHERS = "others"
    NO_OPEN_FRAME = "no_open_frame"


class Reason(StrEnum):
    """The closed list of reasons for which a message gets a dead letter."""

    NULL_VALUE = "null_value"
    MALFORMED = "malformed"
    UNKNOWN_SCHEMA = "unknown_schema"
    EMPTY_ID = "empty_id"
    EMPTY_SEQUENCE = "empty_sequence"
    ID_TOO_LONG = "id_too_long"
    INVALID_NUCLEOTIDES = "invalid_nucleotides"
    SEQUENCE_TOO_LONG = "sequence_too_long"
    MESSAGE_TOO_LARGE = "message_too_large"
    PREDICTION_TOO_LARGE = "prediction_too_large"
    INFERENCE_FAILED = "inference_failed"
    QUARANTINED = "quarantined"
    UNKNOWN = "unknown"
    """Never written: what this reader shows for a reason that only a newer version knows."""


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """A nucleotide sequence to be scored."""

    id: str
    sequence: str
    description: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FrameScore:
    """The two softmax scores of one open reading frame (``F1`` to ``R3``)."""

    frame: str
    others: float
    virus: float


@dataclass(frozen=True, slots=True)
class ChunkPrediction:
    """The verdict on ``sequence[start:end]`` and the scores of its open frames."""

    name: str
    start: int
    end: int
    verdict: Verdict
    frames: tuple[FrameScore, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a prediction, and from which message."""

    model_id: str
    model_sha256: str
    expected_length: int
    attention: str
    attention_backend: str
    precision: str
    software_version: str
    source_topic: str | None = None
    source_partition: int | None = None
    source_offset: int | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one `SequenceRecord`; both scores and the contig rule's fields are None without an open frame."""

    id: str
    length: int
    verdict: Verdict
    virus_score: float | None
    others_score: float | None
    chunks: tuple[ChunkPrediction, ...]
    provenance: Provenance
    call: str | None = None
    tier: str | None = None
    weighted_delta: float | None = None
    n_chunks: int | None = None
    n_confident_viral: int | None = None
    n_confident_nonviral: int | None = None
    n_ambiguous: int | None = None
    viral_proportion: float | None = None
    nonviral_proportion: float | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An input message that got no prediction, with its raw bytes and the reason."""

    reason: Reason
    detail: str
    stage: str
    value: bytes | None
    key: bytes | None
    truncated: bool
    value_sha256: str | None
    source_topic: str
    source_partition: int
    source_offset: int
    source_timestamp_ms: int | None
    group_id: str
    attempts: int
    software_version: str
    failed_at_ms: int
