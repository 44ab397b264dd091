"""A prediction that came from Kafka as the result of a record, for the reports that `predict` writes."""

from __future__ import annotations

from schemas import Prediction
from virnucpro_core.scoring.outcomes import ScoredRecord
from virnucpro_core.scoring.results import ChunkResult, FrameResult, RecordResult


def outcome_of(prediction: Prediction) -> ScoredRecord:
    """The same values; scores are those of a float32 in both. The letters of the record are not known here."""
    result = RecordResult(
        record_id=prediction.id,
        length=prediction.length,
        verdict=prediction.verdict.value,
        virus_score=prediction.virus_score,
        others_score=prediction.others_score,
        chunks=tuple(
            ChunkResult(
                chunk.name,
                chunk.start,
                chunk.end,
                chunk.verdict.value,
                tuple(FrameResult(frame.frame, frame.others, frame.virus) for frame in chunk.frames),
            )
            for chunk in prediction.chunks
        ),
    )
    return ScoredRecord((prediction.id, None, ""), result)
