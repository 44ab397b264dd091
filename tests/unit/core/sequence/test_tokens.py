"""Token ids: against fair-esm's own batch converter, and as the tokenizer file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from esm.data import Alphabet
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.support.small_tokenizer import MERGES, SPECIALS, small_tokenizer, write_tokenizer
from virnucpro_core.sequence import tokens
from virnucpro_core.sequence.tokens import DnaTokenizer, esm2_token_ids

FAIR_ESM = Alphabet.from_architecture("ESM-1b")
LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"


def fair_esm_ids(protein: str) -> list[int]:
    _, _, batch = FAIR_ESM.get_batch_converter()([("x", protein)])
    return batch[0].tolist()


@pytest.mark.parametrize("protein", ["M", LETTERS, LETTERS[::-1], "MKV" * 300])
def test_esm2_ids_are_fair_esms(protein: str) -> None:
    ids = esm2_token_ids(protein)
    assert ids.dtype == np.int32
    assert ids.tolist() == fair_esm_ids(protein)


@given(st.text(alphabet=LETTERS, min_size=1, max_size=60))
def test_esm2_ids_are_fair_esms_for_any_protein(protein: str) -> None:
    assert esm2_token_ids(protein).tolist() == fair_esm_ids(protein)


def test_the_names_of_the_special_ids_are_fair_esms() -> None:
    named = (tokens.ESM2_CLS, tokens.ESM2_PAD, tokens.ESM2_EOS, tokens.ESM2_MASK)
    assert named == (FAIR_ESM.cls_idx, FAIR_ESM.padding_idx, FAIR_ESM.eos_idx, FAIR_ESM.mask_idx)
    assert len(FAIR_ESM) == tokens.ESM2_ALPHABET_SIZE


def test_a_protein_of_nothing_is_its_two_ends() -> None:
    assert esm2_token_ids("").tolist() == [0, 2]


@pytest.mark.parametrize("protein", ["MKJ", "MK*", "mkv", "MKé", "MK?", "MK ", "MK\0"])
def test_a_letter_outside_the_alphabet_is_named(protein: str) -> None:
    wrong = next(letter for letter in protein if letter not in LETTERS)
    place = protein.index(wrong) + 1
    with pytest.raises(ValueError, match=f"residue {place} ") as caught:
        esm2_token_ids(protein)
    assert ascii(wrong) in str(caught.value)


def test_special_ids_come_from_the_file() -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.pad_id == SPECIALS.index("[PAD]")
    assert tokenizer.vocabulary_size == len(SPECIALS) + 4 + len(MERGES)
    (ids,) = tokenizer.encode(["ACGTN"])
    unknown = SPECIALS.index("[UNK]")
    acgt = len(SPECIALS) + 4 + MERGES.index(("AC", "GT"))
    assert ids.tolist() == [SPECIALS.index("[CLS]"), acgt, unknown, SPECIALS.index("[SEP]")]
    assert ids.dtype == np.int32


def test_nothing_is_truncated_or_padded_though_the_file_asks_for_it(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    asked = Tokenizer.from_file(str(path))
    assert len(asked.encode("CCGG" * 40).ids) == 8
    short, long = DnaTokenizer(path).encode(["C", "CCGG" * 40])
    assert (len(short), len(long)) == (3, 162)


def test_a_batch_is_its_sequences_one_by_one() -> None:
    tokenizer = small_tokenizer()
    sequences = ["ACGTACGT", "", "TTTTTT", "NNN", "AAAAAC"]
    together = [ids.tolist() for ids in tokenizer.encode(sequences)]
    assert together == [tokenizer.encode([sequence])[0].tolist() for sequence in sequences]
    assert tokenizer.encode([]) == []


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer file"):
        DnaTokenizer(path)
    with pytest.raises(FileNotFoundError):
        DnaTokenizer(tmp_path / "missing.json")


def test_a_tokenizer_without_padding_token(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    path.write_text(path.read_text().replace("[PAD]", "[POD]"))
    with pytest.raises(ValueError, match="no padding token"):
        DnaTokenizer(path)
