"""Packing without padding, and the exact token budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_core.scoring.packing import batches, how_many_fit, pack, pack_frames
from virnucpro_core.sequence.prepare import PreparedFrame


def frame(protein: int, dna: int) -> PreparedFrame:
    return PreparedFrame(0, "F1", np.full(protein, protein, np.int32), np.full(dna, dna, np.int32))


FRAMES = st.lists(st.builds(frame, st.integers(3, 30), st.integers(3, 30)), max_size=12)


@given(st.lists(st.lists(st.integers(0, 32), min_size=1, max_size=9), max_size=8))
def test_every_segment_comes_back(segments: list[list[int]]) -> None:
    packed = pack([np.array(segment, dtype=np.int32) for segment in segments])
    assert packed.ids.dtype == packed.cu_seqlens.dtype == np.int32
    assert packed.cu_seqlens[0] == 0
    assert packed.cu_seqlens[-1] == len(packed.ids)
    assert len(packed.cu_seqlens) == len(segments) + 1
    bounds = zip(packed.cu_seqlens[:-1], packed.cu_seqlens[1:], strict=True)
    assert [packed.ids[start:end].tolist() for start, end in bounds] == segments
    assert packed.max_seqlen == max(map(len, segments), default=0)


@given(FRAMES)
def test_both_models_get_their_segments_in_the_order_of_the_frames(frames: list[PreparedFrame]) -> None:
    batch = pack_frames(frames)
    assert np.diff(batch.protein.cu_seqlens).tolist() == [len(f.protein_ids) for f in frames]
    assert np.diff(batch.dna.cu_seqlens).tolist() == [len(f.dna_ids) for f in frames]
    assert batch.protein.ids.tolist() == [i for f in frames for i in f.protein_ids.tolist()]
    assert batch.dna.ids.tolist() == [i for f in frames for i in f.dna_ids.tolist()]


@given(FRAMES, st.integers(1, 120))
def test_the_batch_is_the_longest_that_neither_model_finds_over_the_budget(
    frames: list[PreparedFrame], budget: int
) -> None:
    def fits(count: int) -> bool:
        chosen = frames[:count]
        return (
            sum(len(f.protein_ids) for f in chosen) <= budget
            and sum(len(f.dna_ids) for f in chosen) <= budget
        )

    count, protein_tokens, more = how_many_fit(iter(frames), budget)
    assert count == max(n for n in range(len(frames) + 1) if fits(n))
    assert protein_tokens == sum(f.tokens for f in frames[:count])
    assert more == (count < len(frames))


def test_a_full_batch_with_nothing_behind_it_says_so() -> None:
    assert how_many_fit([frame(10, 5), frame(10, 5)], 20) == (2, 20, False)
    assert how_many_fit([frame(10, 5), frame(10, 5), frame(3, 3)], 20) == (2, 20, True)


def test_nucleotides_count_too() -> None:
    assert how_many_fit([frame(3, 15), frame(3, 6)], 20) == (1, 3, True)


def test_a_first_frame_over_the_budget() -> None:
    assert how_many_fit([frame(21, 5)], 20) == (0, 0, True)
    assert how_many_fit([], 20) == (0, 0, False)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=40), st.integers(20, 60))
def test_batches_keep_order_and_budget_and_are_as_full_as_it_allows(sizes, budget) -> None:
    frames = [frame(*size) for size in sizes]
    found = list(batches(frames, budget))
    assert [id(f) for batch in found for f in batch] == [id(f) for f in frames]
    rest = frames
    for batch in found:
        assert how_many_fit(rest, budget)[0] == len(batch)
        rest = rest[len(batch) :]


def test_a_frame_over_the_budget_has_no_batch() -> None:
    with pytest.raises(ValueError, match="a frame of 21 protein and 5 nucleotide tokens is over"):
        list(batches([frame(5, 5), frame(21, 5)], 20))
