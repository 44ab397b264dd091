"""RNA gets the answer of the DNA that it is a copy of; the original's way is there on request."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support import reference_impl
from tests.support.small_tokenizer import small_tokenizer
from virnucpro_core.sequence.prepare import PreparedRecord, prepare
from virnucpro_core.sequence.rna import holds_u, u_as_t

TOKENIZER = small_tokenizer()
DNA = st.text("ACGTacgtNnRY", min_size=1, max_size=400)


def tokens(record: PreparedRecord) -> list[tuple[int, str, list[int], list[int]]]:
    return [(f.chunk, f.label, f.protein_ids.tolist(), f.dna_ids.tolist()) for f in record.frames]


def some_t_as_u(dna: str, random: np.random.Generator, share: float) -> str:
    return "".join(
        {"T": "U", "t": "u"}.get(letter, letter) if random.random() < share else letter for letter in dna
    )


@given(DNA, st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.5, 1.0]))
def test_u_is_read_as_t_wherever_it_stands(dna: str, seed: int, share: float) -> None:
    rna = some_t_as_u(dna, np.random.default_rng(seed), share)
    expected, found = prepare("r", dna, 60, TOKENIZER), prepare("r", rna, 60, TOKENIZER)
    assert tokens(found) == tokens(expected)
    assert (found.spans, found.length) == (expected.spans, expected.length)
    assert found.rna == (rna != dna) == holds_u(rna)
    assert u_as_t(rna) == dna


@given(st.text("ACGTUacgtuN", min_size=1, max_size=400))
def test_keep_u_is_the_originals_way(sequence: str) -> None:
    expected = [
        (number, frame.name[-2:], frame.protein)
        for number, chunk in enumerate(reference_impl.process("r", sequence, 60))
        for frame in chunk.frames
    ]
    found = prepare("r", sequence, 60, TOKENIZER, keep_u=True)
    assert [(frame.chunk, frame.label, len(frame.protein_ids) - 2) for frame in found.frames] == [
        (chunk, label, len(protein)) for chunk, label, protein in expected
    ]
    assert found.rna == holds_u(sequence)


@given(DNA)
def test_dna_is_the_same_either_way(dna: str) -> None:
    assert tokens(prepare("r", dna, 60, TOKENIZER)) == tokens(prepare("r", dna, 60, TOKENIZER, keep_u=True))
