"""Scoring a stream of records: shared batches, exact budget, order, bounded reading ahead."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import reference_impl
from tests.support.small_tokenizer import small_tokenizer
from virnucpro_core.errors import DeviceLost, NotFinite, OutOfMemory
from virnucpro_core.scoring import stream as predict
from virnucpro_core.scoring.computing import Here, Rows
from virnucpro_core.scoring.model import Compute, FloatArray
from virnucpro_core.scoring.outcomes import LeftOut, Outcome, Record, ScoredRecord
from virnucpro_core.scoring.results import RecordResult
from virnucpro_core.scoring.stream import outcome_of, rows_of_records, score_records
from virnucpro_core.sequence.prepare import PreparedFrame, prepare
from virnucpro_core.sequence.tokens import DnaTokenizer

CHUNK = 60


def frame_score(protein_ids: NDArray[np.int32], dna_ids: NDArray[np.int32]) -> tuple[float, float]:
    """A score that depends on both inputs of the frame, and on nothing else."""
    virus = np.float32((zlib.crc32(protein_ids.tobytes() + dna_ids.tobytes()) % 10_000) / 10_000)
    return float(np.float32(1) - virus), float(virus)


class HashEngine:
    """A model whose scores are a checksum of the frame, and which remembers its batches."""

    expected_length = CHUNK

    def __init__(self) -> None:
        self.batches: list[list[PreparedFrame]] = []

    @property
    def tokenizer(self) -> DnaTokenizer:
        return small_tokenizer()

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        self.batches.append(list(frames))
        return np.array([frame_score(f.protein_ids, f.dna_ids) for f in frames], dtype=np.float32)


def records(count: int, seed: int = 1) -> list[tuple[str, str | None, str]]:
    rng = np.random.default_rng(seed)
    return [
        (f"r{n}", None, "".join(rng.choice(list("ACGTN"), rng.integers(1, 400), p=[0.24] * 4 + [0.04])))
        for n in range(count)
    ]


def results_of(outcomes: Iterable[Outcome]) -> list[RecordResult]:
    """The results of records none of which may be left out."""
    found = []
    for outcome in outcomes:
        assert isinstance(outcome, ScoredRecord), outcome
        found.append(outcome.result)
    return found


def run(source, budget: int = 200) -> tuple[list[RecordResult], HashEngine]:
    engine = HashEngine()
    return results_of(score_records(source, engine, budget, 1000)), engine


def ids_and_reasons(outcomes: Iterable[Outcome]) -> list[tuple[str, str | None]]:
    """The id of each record in order, and why it is left out or None."""
    return [(each.record[0], each.reason if isinstance(each, LeftOut) else None) for each in outcomes]


def test_each_record_gets_its_own_frames_scores_in_order() -> None:
    source = records(40)
    results, _ = run(source)
    assert [result.record_id for result in results] == [record_id for record_id, _, _ in source]
    for result, (record_id, _, sequence) in zip(results, source, strict=True):
        chunks = reference_impl.process(record_id, sequence, CHUNK)
        assert [chunk.name for chunk in result.chunks] == [chunk.name for chunk in chunks]
        pairs = []
        for ours, plain in zip(result.chunks, chunks, strict=True):
            assert [ours.name + frame.label for frame in ours.frames] == [
                frame.name for frame in plain.frames
            ]
            scores = [
                frame_score(predict_ids(frame.protein), small_tokenizer().encode([frame.nucleotides])[0])
                for frame in plain.frames
            ]
            assert [(frame.others, frame.virus) for frame in ours.frames] == scores
            assert ours.verdict == reference_impl.verdict(scores)
            pairs += scores
        assert result.verdict == reference_impl.verdict(pairs)


def predict_ids(protein: str) -> NDArray[np.int32]:
    order = "LAGVSERTIDPKQNFYMHWC"
    return np.array([0, *(4 + order.index(letter) for letter in protein), 2], dtype=np.int32)


def test_results_do_not_depend_on_the_budget() -> None:
    source = records(30)
    expected, _ = run(source, 100)
    for budget in (101, 333, 100_000):
        assert run(source, budget)[0] == expected


@pytest.mark.parametrize("budget", [70, 150, 1000])
def test_a_batch_is_as_full_as_the_budget_allows_and_never_fuller(budget: int) -> None:
    results, engine = run(records(60), budget)

    def cost(frames: list[PreparedFrame]) -> int:
        return max(sum(f.tokens for f in frames), sum(len(f.dna_ids) for f in frames))

    assert all(cost(batch) <= budget for batch in engine.batches)
    for batch, following in zip(engine.batches, engine.batches[1:], strict=False):
        assert cost([*batch, following[0]]) > budget
    assert sum(map(len, engine.batches)) == sum(len(c.frames) for r in results for c in r.chunks)


def test_invalid_records_are_left_out_in_their_place() -> None:
    source: list[Record] = [
        ("a", None, "ACGTACGCC"),
        ("b", None, "AC5"),
        ("", None, "ACG"),
        ("c", None, "A" * 1001),
        ("d", None, ""),
        ("e", "described", "ACGTACGCC"),
    ]
    outcomes = list(score_records(source, HashEngine(), 100, 1000))
    assert [outcome.record for outcome in outcomes] == source
    assert ids_and_reasons(outcomes) == [
        ("a", None),
        ("b", "invalid_nucleotides"),
        ("", "empty_id"),
        ("c", "sequence_too_long"),
        ("d", "empty_sequence"),
        ("e", None),
    ]
    assert "'5' at position 3" in outcomes[1].detail


def test_records_without_frames_keep_their_place() -> None:
    source = [("a", None, "N" * 10), ("b", None, "GCC" * 9), ("c", None, "N"), ("d", None, "GCC" * 9)]
    results, engine = run(source, 10_000)
    assert [(r.record_id, r.verdict == "no_open_frame") for r in results] == [
        ("a", True),
        ("b", False),
        ("c", True),
        ("d", False),
    ]
    assert len(engine.batches) == 1


def test_nothing_in_nothing_out() -> None:
    results, engine = run([])
    assert results == []
    assert engine.batches == []


def test_no_more_is_read_than_a_batch_needs() -> None:
    read = 0

    def endless() -> Iterator[tuple[str, str | None, str]]:
        nonlocal read
        while True:
            read += 1
            yield f"r{read}", None, "GCC" * 20

    stream = score_records(endless(), HashEngine(), 300, 1000)
    frames_each = len(next(stream).result.chunks[0].frames)
    assert frames_each == 6
    for returned in range(2, 50):
        next(stream)
        # 6 frames of some 60 nucleotide tokens: every record fills more than a batch, its proteins do not
        assert read - returned <= 1


def test_records_without_frames_do_not_pile_up_behind_one_that_waits(monkeypatch) -> None:
    monkeypatch.setattr(predict, "_MOST_WAITING_RECORDS", 10)
    read = 0

    def one_and_then_nothing() -> Iterator[tuple[str, str | None, str]]:
        nonlocal read
        yield "scored", None, "GCC" * 9
        while True:
            read += 1
            yield f"r{read}", None, "NNN"

    assert next(score_records(one_and_then_nothing(), HashEngine(), 10_000, 1000)).record[0] == "scored"
    assert read == 10


def test_records_that_are_left_out_do_not_pile_up_behind_one_that_waits(monkeypatch) -> None:
    monkeypatch.setattr(predict, "_MOST_WAITING_RECORDS", 10)
    read = 0

    def one_and_then_rubbish() -> Iterator[Record]:
        nonlocal read
        yield "scored", None, "GCC" * 9
        while True:
            read += 1
            yield f"r{read}", None, "5"

    assert next(score_records(one_and_then_rubbish(), HashEngine(), 10_000, 1000)).record[0] == "scored"
    assert read == 10


def test_a_frame_over_the_budget_is_refused_with_the_figures() -> None:
    with pytest.raises(
        ValueError, match=r"frame of 22 protein and \d+ nucleotide tokens is over the token budget of 21"
    ):
        run([("a", None, "GCC" * 20)], 21)


@pytest.mark.parametrize("error", [DeviceLost("no device"), TypeError("a bug")])
def test_a_lost_device_and_a_bug_pass_through(error: Exception) -> None:
    class Broken(HashEngine):
        def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
            raise error

    with pytest.raises(type(error), match=str(error)):
        list(score_records(records(3), Broken(), 100, 1000))


class Small(HashEngine):
    """Runs out of memory above a number of protein tokens, and fails on any batch with the protein `poison`."""

    def __init__(self, memory: int, poison: bytes = b"") -> None:
        super().__init__()
        self.memory, self.poison = memory, poison

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        if sum(frame.tokens for frame in frames) > self.memory:
            raise OutOfMemory("the device has no memory left")
        if any(frame.protein_ids.tobytes() == self.poison for frame in frames):
            raise NotFinite("a score is NaN")
        return super().score(frames)


LONGEST = CHUNK // 3 + 2
"""Protein tokens of the longest frame."""


@pytest.mark.parametrize("memory", [LONGEST, 40, 75, 200])
def test_a_batch_too_large_for_memory_is_scored_in_parts(memory: int) -> None:
    source = records(30)
    expected, _ = run(source, 333)
    assert results_of(score_records(source, Small(memory), 333, 1000)) == expected


@pytest.mark.parametrize("memory", [10_000, 60])
@pytest.mark.parametrize("budget", [70, 1000])
def test_a_record_that_cannot_be_computed_is_left_out_in_its_place(memory: int, budget: int) -> None:
    source = records(40)
    others, _ = run(source, 10_000)
    bad = ("poison", None, "GCC" * 10)
    poison = prepare(*bad[::2], CHUNK, small_tokenizer()).frames[0].protein_ids.tobytes()
    source.insert(7, bad)
    outcomes = list(score_records(source, Small(memory, poison), budget, 1000))
    assert ids_and_reasons(outcomes) == [
        (name, "inference_failed" if name == "poison" else None) for name, _, _ in source
    ]
    left_out = outcomes.pop(7)
    assert "NotFinite: a score is NaN" in left_out.detail
    assert results_of(outcomes) == others


def test_a_record_with_a_frame_too_large_for_memory_is_left_out_in_its_place() -> None:
    source = [(f"r{n}", None, "GCC" * 10) for n in range(6)] + [("large", None, "GCC" * 20)]
    source += [(f"s{n}", None, "GCC" * 10) for n in range(6)]
    outcomes = list(score_records(source, Small(LONGEST - 1), 500, 1000))
    assert ids_and_reasons(outcomes) == [
        (name, "out_of_memory" if name == "large" else None) for name, _, _ in source
    ]
    assert "does not fit into the device's memory" in outcomes[6].detail


def test_rows_of_any_compute_go_the_same_way() -> None:
    """`embed` asks for features: a record that has none is left out there too."""
    source = [("a", None, "GCC" * 10), ("large", None, "GCC" * 20), ("b", None, "GCC" * 10)]
    engine = Small(LONGEST - 1)
    a, large, b = rows_of_records(source, engine, Here(engine.score), 200, 1000)
    assert [(each.prepared.record_id, len(each.rows)) for each in (a, b)] == [("a", 6), ("b", 6)]
    assert (large.record[0], large.reason) == ("large", "out_of_memory")


class Ahead:
    """Computes a batch when its rows are asked for, and notes how many were begun by then.

    Args:
        ahead: as of `Computing`.
    """

    def __init__(self, compute: Compute, ahead: int) -> None:
        self._compute, self.ahead = compute, ahead
        self.begun = 0
        self.most = 0

    def begin(self, frames: Sequence[PreparedFrame]) -> Rows:
        self.begun += 1

        def rows() -> FloatArray:
            self.most = max(self.most, self.begun)
            self.begun -= 1
            return self._compute(frames)

        return rows


@pytest.mark.parametrize("ahead", [1, 2, 7])
@pytest.mark.parametrize("memory", [10_000, 60])
def test_with_batches_ahead_each_record_gets_its_own_rows(ahead: int, memory: int) -> None:
    """Also those of a record that is given up while later batches with its frames are begun."""
    source = records(40)
    bad = ("poison", None, "GCC" * 400)
    poison = prepare("", bad[2], CHUNK, small_tokenizer()).frames[0].protein_ids.tobytes()
    source.insert(7, bad)
    engine = Small(memory, poison)
    expected = list(score_records(source, engine, 200, 10_000))
    ahead_of = Ahead(engine.score, ahead)
    found = list(map(outcome_of, rows_of_records(source, engine, ahead_of, 200, 10_000)))
    assert ids_and_reasons(found) == ids_and_reasons(expected)
    assert [each.reason for each in found if isinstance(each, LeftOut)] == ["inference_failed"]
    assert results_of(each for each in found if isinstance(each, ScoredRecord)) == results_of(
        each for each in expected if isinstance(each, ScoredRecord)
    )
    assert ahead_of.most <= 2 * ahead + 1, "not more than were begun when it was given up"


@pytest.mark.parametrize("ahead", [0, 1, 7])
def test_no_more_batches_are_begun_than_may_be_ahead(ahead: int) -> None:
    engine = HashEngine()
    ahead_of = Ahead(engine.score, ahead)
    assert len(list(rows_of_records(records(40), engine, ahead_of, 200, 10_000))) == 40
    assert ahead_of.most == ahead + 1
    assert ahead_of.begun == 0


def test_what_failed_is_not_kept_alive_while_its_parts_run() -> None:
    """The exception of a run holds the frames of its calls, and they hold the tensors that filled the memory."""
    alive: list[weakref.ref[Activations]] = []

    class Activations:
        pass

    class Hungry(HashEngine):
        def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
            activations = Activations()
            assert not any(ref() for ref in alive), "the activations of a failed run are still there"
            alive.append(weakref.ref(activations))
            if len(frames) > 1:
                raise OutOfMemory("the device has no memory left")
            return super().score(frames)

    source = [(f"r{n}", None, "GCC" * 10) for n in range(3)]
    assert len(list(score_records(source, Hungry(), 10_000, 1000))) == 3
    assert len(alive) > 18
