"""Which records are refused, and how that is said."""

from __future__ import annotations

import string

import pytest

from virnucpro_core.sequence.validation import MAX_ID_LETTERS, InvalidSequence, validate

CODES = "ACGTURYSWKMBDHVN"


def refusal(record_id: str, sequence: str, max_bases: int = 100) -> InvalidSequence:
    with pytest.raises(InvalidSequence) as caught:
        validate(record_id, sequence, max_bases)
    assert str(caught.value) == caught.value.detail
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) < 200
    return caught.value


def test_every_iupac_code_in_either_case_is_fine() -> None:
    validate("r", CODES + CODES.lower(), 100)


@pytest.mark.parametrize("letter", sorted(set(string.printable) - set(CODES + CODES.lower())))
def test_every_other_printable_letter_is_named_with_its_place(letter: str) -> None:
    error = refusal("r", "ACG" + letter + "A*")
    assert error.kind == "invalid_nucleotides"
    assert error.detail.startswith(f"{letter!r} at position 4 ")


@pytest.mark.parametrize("letter", ["\u212a", "\u017f", "é", "\0", "\U0001f9ec", "Α"])
def test_letters_outside_ascii_do_not_pass_as_their_likeness(letter: str) -> None:
    error = refusal("r", letter + "A")
    assert error.kind == "invalid_nucleotides"
    assert error.detail.isascii()
    assert "position 1 " in error.detail


@pytest.mark.parametrize("record_id", ["", " ", "\t\n"])
def test_an_id_of_nothing_is_no_id(record_id: str) -> None:
    assert refusal(record_id, "ACGT").kind == "empty_id"


def test_an_empty_sequence() -> None:
    assert refusal("r", "").kind == "empty_sequence"


def test_the_limit_itself_is_allowed() -> None:
    validate("r", "A" * 100, 100)
    error = refusal("r", "A" * 101, 100)
    assert error.kind == "sequence_too_long"
    assert "more than 100 bases" in error.detail
    assert "100" in error.detail


def test_the_first_thing_wrong_is_reported() -> None:
    assert refusal("", "").kind == "empty_id"
    assert refusal("r", "-" * 101).kind == "sequence_too_long"


def test_an_id_has_a_bound():
    validate("x" * MAX_ID_LETTERS, "ACGT", 10)
    assert refusal("x" * (MAX_ID_LETTERS + 1), "ACGT").kind == "id_too_long"
