"""Equal frames scored once: the same rows, no frame computed twice while it is remembered, bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.factories import INFO
from tests.unit.core.scoring.test_stream import HashEngine, frame_score, ids_and_reasons, run
from virnucpro_core.errors import DeviceLost, OutOfMemory
from virnucpro_core.scoring.frame_cache import CachedScorer, frame_key, with_cache
from virnucpro_core.scoring.model import Enqueued, InTurn
from virnucpro_core.scoring.stream import score_records
from virnucpro_core.sequence.prepare import PreparedFrame


def frame(protein: Sequence[int], dna: Sequence[int] = (1,), chunk: int = 0) -> PreparedFrame:
    return PreparedFrame(chunk, "F1", np.array(protein, dtype=np.int32), np.array(dna, dtype=np.int32))


def numbered(number: int) -> PreparedFrame:
    return frame([0, number, 2])


class Counting:
    """Notes the frames that it computes, and raises what it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.computed: list[int] = []

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        if self.error is not None:
            raise self.error
        self.computed += [int(each.protein_ids[1]) for each in frames]
        return np.array([frame_score(each.protein_ids, each.dna_ids) for each in frames], dtype=np.float32)


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=4)


@given(tokens, tokens, tokens, tokens)
def test_two_frames_have_one_key_if_and_only_if_both_token_sequences_are_equal(a, b, c, d) -> None:
    first, second = frame(a, b), frame(c, d, chunk=5)
    assert (frame_key(first) == frame_key(second)) is ((a, b) == (c, d))
    assert len(frame_key(first)) == 16


@given(
    st.lists(st.lists(st.integers(0, 12), max_size=8), max_size=12),
    st.integers(1, 20),
)
def test_rows_are_the_scorers_own_and_the_least_recently_used_is_forgotten(batches, entries) -> None:
    scorer, plain, hits = Counting(), Counting(), []
    cached = CachedScorer(scorer, entries, hits.append)
    remembered: list[int] = []  # the least recently used first
    reused = 0
    for numbers in batches:
        frames = [numbered(number) for number in numbers]
        scorer.computed.clear()
        rows = cached.score(frames)
        assert rows.dtype == np.float32
        assert rows.tobytes() == (plain.score(frames).tobytes() if frames else b"")
        assert rows.shape == (len(frames), 2)
        assert scorer.computed == [n for n in dict.fromkeys(numbers) if n not in remembered]
        reused += len(numbers) - len(scorer.computed)
        for number in numbers:
            remembered = [*(n for n in remembered if n != number), number]
        remembered = remembered[-entries:]
        assert len(cached) == len(remembered)
    assert sum(hits) == reused


@pytest.mark.parametrize("error", [OutOfMemory("full"), ValueError("bad"), DeviceLost("gone")])
def test_a_batch_that_fails_is_not_remembered_and_its_hits_do_not_count(error: Exception) -> None:
    scorer, hits = Counting(), []
    cached = CachedScorer(scorer, 10, hits.append)
    cached.score([numbered(1)])
    scorer.error = error
    with pytest.raises(type(error)):
        cached.score([numbered(1), numbered(2), numbered(2)])
    assert len(cached) == 1
    assert hits == []
    scorer.error = None
    cached.score([numbered(1), numbered(2)])
    assert scorer.computed == [1, 2]
    assert hits == [1]


def test_rows_of_another_shape_are_refused() -> None:
    class Wide(Counting):
        def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
            return np.zeros((len(frames), 3), dtype=np.float32)

    with pytest.raises(ValueError, match="shape"):
        CachedScorer(Wide(), 10, [].append).score([numbered(1)])


@pytest.mark.parametrize(
    ("entries", "precision", "device", "is_cached"),
    [
        (10, "fp32", "cpu", True),
        (10, "fp16", "cuda:0 (NVIDIA H200)", True),
        (10, "fp32", "cuda:0 (NVIDIA H200)", False),
        (0, "fp32", "cpu", False),
    ],
)
def test_there_is_a_cache_where_a_row_does_not_depend_on_the_batch(
    entries, precision, device, is_cached
) -> None:
    scorer = Counting()
    info = replace(INFO, precision=precision, device=device)
    assert (with_cache(scorer, info, entries, [].append) is not scorer) is is_cached


class CachedEngine(HashEngine):
    """An engine behind a cache; notes the batches that the cache is asked for."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.inner = HashEngine()
        self._cached = CachedScorer(self.inner, entries, [].append)

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        self.batches.append(list(frames))
        return self._cached.score(frames)


sequences = st.lists(st.text("ACGT", min_size=1, max_size=150), min_size=1, max_size=6)


@given(sequences, st.data())
def test_a_file_has_the_same_results_with_and_without_and_its_batches_keep_the_budget(pool, data) -> None:
    chosen = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=20))
    source = [(f"r{number}", None, sequence) for number, sequence in enumerate(chosen)]
    expected, plain = run(source, 200)
    engine = CachedEngine(data.draw(st.integers(1, 50)))
    outcomes = list(score_records(source, engine, 200, 1000))
    assert [outcome.result for outcome in outcomes] == expected
    assert [len(batch) for batch in engine.batches] == [len(batch) for batch in plain.batches]
    for batch in engine.batches:
        assert sum(each.tokens for each in batch) <= 200
        assert sum(len(each.dna_ids) for each in batch) <= 200
    computed = [frame_key(each) for batch in engine.inner.batches for each in batch]
    asked = {frame_key(each) for batch in plain.batches for each in batch}
    assert set(computed) == asked


def test_bisection_finds_a_record_that_stands_twice_and_costs_no_other() -> None:
    class Picky(HashEngine):
        def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
            if any(each.tokens == 17 for each in frames):
                raise ValueError("not this one")
            return super().score(frames)

    bad, good = "GCA" * 15, "GCA" * 12
    engine = CachedEngine(10)
    engine._cached = CachedScorer(Picky(), 10, [].append)
    source = [("a", None, good), ("b", None, bad), ("c", None, good), ("d", None, bad), ("e", None, good)]
    found = ids_and_reasons(score_records(source, engine, 10_000, 1000))
    assert found == [
        ("a", None),
        ("b", "inference_failed"),
        ("c", None),
        ("d", "inference_failed"),
        ("e", None),
    ]


def test_memory_that_runs_out_halves_what_is_computed() -> None:
    class Small(HashEngine):
        def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
            if len(frames) > 2:
                raise OutOfMemory("full")
            return super().score(frames)

    source = [(f"r{number}", None, "GCA" * (5 + number % 4)) for number in range(16)]
    expected, _ = run(source, 10_000)
    engine = CachedEngine(10)
    engine._cached = CachedScorer(Small(), 10, [].append)
    assert [outcome.result for outcome in score_records(source, engine, 10_000, 1000)] == expected


class TestABatchBehindAnother:
    """Enqueued while the batch before it computes."""

    def test_leaves_to_it_the_frames_that_both_have(self) -> None:
        scorer, hits = Counting(), []
        cached = CachedScorer(scorer, 10, hits.append)
        first = cached.enqueue([numbered(1), numbered(2)])
        second = cached.enqueue([numbered(2), numbered(3), numbered(1)])
        third_frames = [numbered(3), numbered(4)]
        rows = first.read(), second.read(), cached.enqueue(third_frames).read()
        assert scorer.computed == [1, 2, 3, 4]
        assert hits == [2, 1]
        plain = Counting()
        assert rows[1].tobytes() == plain.score([numbered(2), numbered(3), numbered(1)]).tobytes()
        assert rows[2].tobytes() == plain.score(third_frames).tobytes()

    def test_computes_them_itself_when_that_one_fails(self) -> None:
        scorer, hits = Counting(), []
        cached = CachedScorer(scorer, 10, hits.append)
        first = cached.enqueue([numbered(1), numbered(2)])
        second = cached.enqueue([numbered(2), numbered(3)])
        scorer.error = ValueError("bad")
        with pytest.raises(ValueError, match="bad"):
            first.read()
        scorer.error = None
        assert second.read().tobytes() == Counting().score([numbered(2), numbered(3)]).tobytes()
        assert scorer.computed == [3, 2]
        assert hits == []

    def test_finds_the_rows_of_one_that_was_forgotten_meanwhile(self) -> None:
        """The cache holds one row, the batches more."""
        scorer = Counting()
        cached = CachedScorer(scorer, 1, [].append)
        first = cached.enqueue([numbered(1), numbered(2)])
        second = cached.enqueue([numbered(1), numbered(2)])
        assert first.read().tobytes() == second.read().tobytes()
        assert scorer.computed == [1, 2]

    def test_is_not_held_up_by_one_that_could_not_be_enqueued(self) -> None:
        class Full(Counting):
            def enqueue(self, frames: Sequence[PreparedFrame]) -> Enqueued:
                if self.error is not None:
                    raise self.error
                return InTurn(self).enqueue(frames)

        scorer = Full(OutOfMemory("full"))
        cached = CachedScorer(scorer, 10, [].append)
        with pytest.raises(OutOfMemory):
            cached.enqueue([numbered(1)])
        scorer.error = None
        cached.enqueue([numbered(1)]).read()
        assert scorer.computed == [1]
