"""The nucleotide tokenizer that the training makes."""

from __future__ import annotations

from itertools import product

import numpy as np

from tests.support.training_fixture import data
from training.data.corpus import TRAIN
from training.data.train_tokenizer import SPECIALS, VOCABULARY, sample_pieces, train_tokenizer

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def test_pieces_are_of_both_strands_of_the_training_split_alone() -> None:
    corpus = data().corpus
    pieces = list(sample_pieces(corpus, 300, 150, seed=1))
    train = "|".join(corpus.sequence(int(record)) for record in corpus.records_of(TRAIN))
    forward = np.array([piece in train for piece in pieces])
    reverse = np.array([piece[::-1].translate(COMPLEMENT) in train for piece in pieces])
    assert (forward | reverse).all()
    assert 0.4 < forward.mean() < 0.6
    assert {len(piece) for piece in pieces if set(piece) <= set("ACGT")} >= {150}
    assert set("".join(pieces)) == set("ACGT")


def test_specials_have_the_first_ids_and_stand_around_a_sequence() -> None:
    tokenizer = data().tokenizer
    found = tokenizer.encode(["ACGTTTGACCN"])[0]
    assert found[0] == SPECIALS.index("[CLS]")
    assert found[-1] == SPECIALS.index("[SEP]")
    assert found[-2] == SPECIALS.index("[UNK]")  # the N
    assert (found[1:-2] >= len(SPECIALS)).all()
    assert tokenizer.pad_id == SPECIALS.index("[PAD]")


def test_every_codon_is_one_token_and_no_token_crosses_codons() -> None:
    tokenizer = data().tokenizer
    codons = ["".join(letters) for letters in product("ACGT", repeat=3)]
    alone = [ids[1:-1].tolist() for ids in tokenizer.encode(codons)]
    assert all(len(ids) == 1 for ids in alone)
    assert len({ids[0] for ids in alone}) == 64
    assert tokenizer.vocabulary_size <= VOCABULARY
    together, shifted = tokenizer.encode(["".join(codons), "A" + "".join(codons)])
    assert together[1:-1].tolist() == [ids[0] for ids in alone]
    assert shifted[1:65].tolist() != together[1:65].tolist()  # what is not in phase is another text


def test_what_is_no_whole_codon_has_tokens_too() -> None:
    found = data().tokenizer.encode(["ACGTT", "ACGT", "ANC"])
    assert [len(ids) - 2 for ids in found] == [2, 2, 3]


def test_the_tokenizer_depends_on_data_and_seed_alone() -> None:
    one, same, other = (
        train_tokenizer(sample_pieces(data().corpus, 200, 150, seed)).to_str() for seed in (1, 1, 2)
    )
    assert one == same != other
