"""From frame scores to the verdicts of chunks and record."""

from __future__ import annotations

import numpy as np
import pytest

from virnucpro_core.errors import NotFinite
from virnucpro_core.scoring.results import FrameResult, assemble
from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord


def record(*chunks: str) -> PreparedRecord:
    """A record with these frames, e.g. record("F1 R3", "", "F2")."""
    ids = np.array([0, 5, 2], dtype=np.int32)
    frames = [
        PreparedFrame(i, label, ids, ids) for i, labels in enumerate(chunks) for label in labels.split()
    ]
    spans = tuple((100 * i, 100 * i + 100) for i in range(len(chunks)))
    return PreparedRecord("seq", 100 * len(chunks), spans, tuple(frames))


def scores(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32).reshape(-1, 2)


def test_frames_go_to_their_chunks_in_order() -> None:
    result = assemble(record("F1 R3", "", "F2"), scores((0.75, 0.25), (0.5, 0.5), (0.125, 0.875)))
    assert [(c.name, c.start, c.end) for c in result.chunks] == [
        ("seq_chunk_1", 0, 100),
        ("seq_chunk_2", 100, 200),
        ("seq_chunk_3", 200, 300),
    ]
    assert result.chunks[0].frames == (FrameResult("F1", 0.75, 0.25), FrameResult("R3", 0.5, 0.5))
    assert result.chunks[1].frames == ()
    assert result.chunks[2].frames == (FrameResult("F2", 0.125, 0.875),)


def test_a_chunk_is_virus_if_its_highest_virus_score_reaches_its_highest_others_score() -> None:
    result = assemble(
        record("F1 F2", "F1 F2", "F1", ""),
        scores((0.9, 0.1), (0.05, 0.95), (0.9, 0.1), (0.15, 0.85), (0.5, 0.5)),
    )
    assert [chunk.verdict for chunk in result.chunks] == ["virus", "others", "virus", "no_open_frame"]


def test_the_record_is_judged_over_all_frames_not_by_its_chunks() -> None:
    # two chunks of three are virus, yet the highest score of all is an "others"
    result = assemble(record("F1", "F1", "F1"), scores((0.4, 0.6), (0.3, 0.7), (0.8, 0.2)))
    assert [chunk.verdict for chunk in result.chunks] == ["virus", "virus", "others"]
    assert result.verdict == "others"
    assert result.virus_score == float(np.float32(0.7))
    assert result.others_score == float(np.float32(0.8))


def test_without_open_frames_there_are_no_scores() -> None:
    result = assemble(record("", ""), scores())
    assert (result.verdict, result.virus_score, result.others_score) == ("no_open_frame", None, None)
    assert (result.record_id, result.length, len(result.chunks)) == ("seq", 200, 2)


def test_scores_stay_float32_to_the_bit() -> None:
    rows = np.random.default_rng(3).random((3, 2), dtype=np.float32)
    result = assemble(record("F1 F2 F3"), rows)
    back = np.array([(frame.others, frame.virus) for frame in result.chunks[0].frames], dtype=np.float32)
    assert np.array_equal(back, rows)
    assert type(result.virus_score) is float


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 2), np.float32),
        np.zeros((2, 3), np.float32),
        np.zeros(4, np.float32),
        np.zeros((2, 2), np.float64),
    ],
)
def test_scores_of_another_shape_or_type_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="2 frames cannot have scores"):
        assemble(record("F1 F2"), wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_makes_no_verdict(bad: float) -> None:
    with pytest.raises(NotFinite, match="seq"):
        assemble(record("F1 F2"), scores((0.5, 0.5), (0.5, bad)))
