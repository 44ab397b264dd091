"""Disturbed frames: the same protein in other codons, other amino acids without a stop, joined open pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.training_fixture import coding, data
from training.data.augment import mutate, recode, stitch
from virnucpro_core.sequence.frames import open_frames

SEEDS = st.integers(0, 2**32)
FRAMES = st.builds(
    lambda seed, codons, rest: coding(3 * codons, 1.0, np.random.default_rng(seed)) + "A" * rest,
    SEEDS,
    st.integers(1, 60),
    st.integers(0, 1),
)


def first_protein(nucleotides: str) -> str | None:
    """The protein of the first frame, None if it is not open."""
    return next((frame.protein for frame in open_frames(nucleotides) if frame.label == "F1"), None)


@given(FRAMES, SEEDS)
def test_recoded_nucleotides_keep_the_protein(frame: str, seed: int) -> None:
    recoded = recode(frame, np.random.default_rng(seed))
    assert len(recoded) == len(frame)
    assert first_protein(recoded) == first_protein(frame)


def test_recoding_reaches_all_synonyms_and_shifts_the_share_of_g_and_c() -> None:
    frame, rng = "CTGAGCATGTGG" * 100, np.random.default_rng(1)
    found = [recode(frame, rng) for _ in range(200)]
    codons = {text[i : i + 3] for text in found for i in range(0, len(text), 3)}
    of_leucine, of_serine = (
        {"CTA", "CTC", "CTG", "CTT", "TTA", "TTG"},
        {"TCA", "TCC", "TCG", "TCT", "AGC", "AGT"},
    )
    assert codons == of_leucine | of_serine | {"ATG", "TGG"}
    share = [sum(letter in "GC" for letter in text) / len(text) for text in found]
    assert np.ptp(share) > 0.2


@given(FRAMES, st.floats(0, 1), SEEDS)
def test_mutated_frames_stay_open_and_say_their_protein(frame: str, rate: float, seed: int) -> None:
    mutated, protein = mutate(frame, "stale", rate, np.random.default_rng(seed))
    assert len(mutated) == len(frame)
    assert protein == first_protein(mutated)


def test_mutation_hits_at_its_rate_one_base_of_a_codon() -> None:
    frame, rng = "GCC" * 20_000, np.random.default_rng(1)
    assert mutate(frame, "A" * 20_000, 0.0, rng) == (frame, "A" * 20_000)
    mutated, _ = mutate(frame, "A" * 20_000, 0.4, rng)
    changes = np.array([a != b for a, b in zip(mutated, frame, strict=True)]).reshape(-1, 3)
    assert changes.sum(axis=1).max() == 1
    assert changes.mean(axis=0) == pytest.approx(
        0.4 / 3 * 3 / 4, abs=0.01
    )  # a quarter of the draws change nothing


@pytest.mark.parametrize("frame", ["ACGNTT", "GCCRCC", "AC"])
def test_a_frame_with_another_letter_comes_back_as_it_is(frame: str) -> None:
    rng = np.random.default_rng(1)
    assert recode(frame, rng) == frame
    # Its protein has residues from beyond the dropped codon, which these nucleotides do not show.
    assert mutate(frame, "TV", 1.0, rng) == (frame, "TV")


@pytest.mark.parametrize("letters", [200, 301, 500])
def test_stitched_chunks_are_open_pieces_of_one_record(letters: int) -> None:
    corpus, rng = data().corpus, np.random.default_rng(1)
    record = 2
    chunk = stitch(corpus, record, letters, rng)
    assert len(chunk) == letters
    assert first_protein(chunk) is not None
    whole = corpus.sequence(record)
    both = whole + "|" + whole[::-1].translate(str.maketrans("ACGT", "TGCA"))
    assert chunk[:150] in both
    assert letters < 345 or chunk not in both


def test_nothing_is_stitched_of_a_record_without_open_pieces() -> None:
    from tests.support.training_fixture import bare_corpus, row
    from training.data.corpus import Corpus

    closed = "TAACTAACTAAC" * 60
    bare = bare_corpus([row("closed", "others", "train")])
    given = {name: getattr(bare, name) for name in Corpus.__slots__}
    given |= {"codes": np.frombuffer(closed.encode(), np.uint8), "starts": np.array([0, len(closed)])}
    assert not open_frames(closed)
    assert stitch(Corpus(**given), 0, 300, np.random.default_rng(1)) == ""
