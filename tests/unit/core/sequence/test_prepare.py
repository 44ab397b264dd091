"""From a sequence to tokenised frames."""

from __future__ import annotations

import numpy as np

from tests.support import reference_impl
from tests.support.small_tokenizer import small_tokenizer
from virnucpro_core.sequence.prepare import prepare
from virnucpro_core.sequence.tokens import esm2_token_ids

SEQUENCE = "ATGGCCAAAGGGNNNCCCAAATTTGGGCCC" * 5


def test_frames_are_the_plain_rules_frames_tokenised() -> None:
    tokenizer = small_tokenizer()
    prepared = prepare("r", SEQUENCE, 40, tokenizer)
    expected = [
        (number, frame.name[-2:], frame.protein, frame.nucleotides)
        for number, chunk in enumerate(reference_impl.process("r", SEQUENCE, 40))
        for frame in chunk.frames
    ]
    assert len(expected) > 5
    assert [(frame.chunk, frame.label) for frame in prepared.frames] == [row[:2] for row in expected]
    for frame, (_, _, protein, nucleotides) in zip(prepared.frames, expected, strict=True):
        assert np.array_equal(frame.protein_ids, esm2_token_ids(protein))
        assert np.array_equal(frame.dna_ids, tokenizer.encode([nucleotides])[0])
        assert frame.protein_ids.dtype == frame.dna_ids.dtype == np.int32


def test_the_record_knows_its_length_chunks_and_tokens() -> None:
    prepared = prepare("r", SEQUENCE, 40, small_tokenizer())
    assert prepared.record_id == "r"
    assert prepared.length == 150
    assert prepared.spans == tuple((s, s + len(c)) for s, c in reference_impl.cut(SEQUENCE, 40))
    assert prepared.tokens == sum(len(frame.protein_ids) for frame in prepared.frames)


def test_a_record_without_open_frames_keeps_its_chunks() -> None:
    prepared = prepare("r", "N" * 90, 40, small_tokenizer())
    assert len(prepared.spans) == 3
    assert prepared.frames == ()
    assert prepared.tokens == 0


def test_an_empty_sequence_has_no_chunks_and_no_frames() -> None:
    prepared = prepare("r", "", 40, small_tokenizer())
    assert (prepared.length, prepared.spans, prepared.frames) == (0, (), ())
