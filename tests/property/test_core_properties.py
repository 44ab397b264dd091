"""The package against the plain implementation of VirNucPro's rules, on generated sequences."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support import reference_impl
from tests.support.small_tokenizer import small_tokenizer
from virnucpro_core.scoring.results import assemble
from virnucpro_core.sequence.chunks import chunk_name, chunk_spans
from virnucpro_core.sequence.frames import open_frames, open_frames_by_span
from virnucpro_core.sequence.prepare import prepare
from virnucpro_core.sequence.rna import u_as_t
from virnucpro_core.sequence.tokens import esm2_token_ids
from virnucpro_core.sequence.validation import NUCLEOTIDE_CODES, validate

CODES = NUCLEOTIDE_CODES + NUCLEOTIDE_CODES.lower()


def sequences(max_size: int) -> st.SearchStrategy[str]:
    """Any codes; mostly bases with the odd other letter; runs without stop codons."""
    return st.one_of(
        st.text(alphabet=CODES, max_size=max_size),
        st.text(alphabet="ACGT" * 12 + "acgtNnUuRY", max_size=max_size),
        st.lists(
            st.sampled_from(["GCC", "GGC", "CTC", "NNN", "AUG", "gcc", "ACN"]), max_size=max_size // 3
        ).map("".join),
    )


@given(st.integers(0, 20_000), st.integers(1, 700))
@example(501, 500)
@example(999, 500)
def test_spans_are_the_plain_rules(length: int, size: int) -> None:
    letters = "A" * length
    assert chunk_spans(length, size) == [(s, s + len(c)) for s, c in reference_impl.cut(letters, size)]


@given(st.integers(1, 20_000), st.integers(1, 700))
def test_chunks_cover_every_letter_and_only_the_last_is_short(length: int, size: int) -> None:
    spans = chunk_spans(length, size)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert len(spans) == -(-length // size)
    assert all(end - start == size for start, end in spans[:-1])
    assert 0 < spans[-1][1] - spans[-1][0] <= size
    assert all(before[0] < after[0] <= before[1] for before, after in pairwise(spans))


@given(sequences(120))
@example("")
@example("AC")
@example("NNN")
@example("AUGGCC")
@example("gccNNNaaa")
def test_open_frames_of_a_chunk(chunk: str) -> None:
    ours = [(frame.label, frame.nucleotides, frame.protein) for frame in open_frames(chunk)]
    assert ours == [(f.name, f.nucleotides, f.protein) for f in reference_impl.open_frames("", chunk)]


@settings(max_examples=200)
@given(sequences(400), st.integers(1, 90))
@example("GCC" * 40 + "N" + "GCC" * 40, 60)
@example("ATGGCCAAAGGG", 1)
def test_open_frames_of_a_whole_record(sequence: str, size: int) -> None:
    by_span = open_frames_by_span(sequence, chunk_spans(len(sequence), size))
    ours = [
        (chunk_name("r", index) + frame.label, frame.nucleotides, frame.protein)
        for index, frames in enumerate(by_span)
        for frame in frames
    ]
    plain = [frame for chunk in reference_impl.process("r", sequence, size) for frame in chunk.frames]
    assert ours == [(frame.name, frame.nucleotides, frame.protein) for frame in plain]


@settings(max_examples=50)
@given(sequences(400).filter(bool), st.integers(20, 90), st.integers(0, 2**32 - 1), st.booleans())
def test_from_a_sequence_to_its_verdicts(sequence: str, size: int, seed: int, keep_u: bool) -> None:
    validate("r", sequence, 400)
    prepared = prepare("r", sequence, size, small_tokenizer(), keep_u)
    sequence = sequence if keep_u else u_as_t(sequence)
    # Few different scores, so that ties between and within frames happen.
    virus = np.random.default_rng(seed).integers(0, 5, len(prepared.frames)).astype(np.float32) / np.float32(
        4
    )
    result = assemble(prepared, np.stack([1 - virus, virus], axis=1))
    plain = reference_impl.process("r", sequence, size)
    pairs = list(zip((1 - virus).tolist(), virus.tolist(), strict=True))

    assert result.verdict == reference_impl.verdict(pairs)
    assert [(c.name, c.start, sequence[c.start : c.end]) for c in result.chunks] == [
        (chunk.name, chunk.start, chunk.letters) for chunk in plain
    ]
    tokenised = iter(prepared.frames)
    for ours, chunk in zip(result.chunks, plain, strict=True):
        mine, pairs = pairs[: len(chunk.frames)], pairs[len(chunk.frames) :]
        assert ours.verdict == reference_impl.verdict(mine)
        assert [ours.name + frame.label for frame in ours.frames] == [frame.name for frame in chunk.frames]
        assert [(frame.others, frame.virus) for frame in ours.frames] == mine
        for frame in chunk.frames:
            ids = next(tokenised)
            assert np.array_equal(ids.protein_ids, esm2_token_ids(frame.protein))
            assert np.array_equal(ids.dna_ids, small_tokenizer().encode([frame.nucleotides])[0])
    assert pairs == []
