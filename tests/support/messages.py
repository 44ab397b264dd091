"""One message of each kind with a value in every field."""

from __future__ import annotations

from schemas import (
    ChunkPrediction,
    DeadLetter,
    FrameScore,
    Prediction,
    Provenance,
    Reason,
    SequenceRecord,
    Verdict,
)

RECORD = SequenceRecord("seq1", "ACGT", "a virus", {"run": "7"})
PREDICTION = Prediction(
    id="seq1",
    length=700,
    verdict=Verdict.VIRUS,
    virus_score=0.75,
    others_score=0.5,
    chunks=(
        ChunkPrediction("seq1_chunk_1", 0, 500, Verdict.VIRUS, (FrameScore("F1", 0.25, 0.75),)),
        ChunkPrediction("seq1_chunk_2", 200, 700, Verdict.NO_OPEN_FRAME, ()),
    ),
    provenance=Provenance("nano", "ab" * 32, 500, "packed", "sdpa", "fp32", "0.1.0", "sequences", 3, 41),
    call="Viral",
    tier="review",
    weighted_delta=0.5,
    n_chunks=1,
    n_confident_viral=0,
    n_confident_nonviral=0,
    n_ambiguous=0,
    viral_proportion=0.0,
    nonviral_proportion=0.0,
)
LETTER = DeadLetter(
    reason=Reason.INVALID_NUCLEOTIDES,
    detail="letter '7' at position 3",
    stage="validate",
    value=b"\xc3\x01\x00",
    key=None,
    truncated=False,
    value_sha256="00" * 32,
    source_topic="sequences",
    source_partition=0,
    source_offset=9,
    source_timestamp_ms=1_700_000_000_000,
    group_id="virnucpro",
    attempts=1,
    software_version="0.1.0",
    failed_at_ms=1_700_000_000_001,
)
