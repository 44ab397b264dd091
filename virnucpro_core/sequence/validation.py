"""Which records can be scored at all."""

from __future__ import annotations

import re
from typing import Literal

InvalidKind = Literal["empty_id", "id_too_long", "empty_sequence", "invalid_nucleotides", "sequence_too_long"]

NUCLEOTIDE_CODES = "ACGTURYSWKMBDHVN"
"""The IUPAC nucleotide codes that are accepted, in either case; gaps are not."""

MAX_ID_LETTERS = 1000
"""Longest record id: the name of every chunk repeats it."""

# Both cases are spelled out: a case-blind pattern would let the Kelvin sign pass as K.
_NOT_A_CODE = re.compile(f"[^{NUCLEOTIDE_CODES}{NUCLEOTIDE_CODES.lower()}]")


class InvalidSequence(ValueError):
    """A record that can have no prediction.

    Attributes:
        kind: what is wrong with it, from a closed list.
        detail: the same for a person, one line of bounded length.
    """

    def __init__(self, kind: InvalidKind, detail: str) -> None:
        super().__init__(detail)
        self.kind: InvalidKind = kind
        self.detail = detail


def validate(record_id: str, sequence: str, max_bases: int) -> None:
    """Check a record before it is cut.

    Args:
        record_id: anything but blanks, up to `MAX_ID_LETTERS`.
        sequence: 1 to `max_bases` letters of `NUCLEOTIDE_CODES` in any case.
        max_bases: longest sequence that is accepted.

    Raises:
        InvalidSequence: with the first thing that is wrong.
    """
    if not record_id.strip():
        raise InvalidSequence("empty_id", "the record has no id")
    if len(record_id) > MAX_ID_LETTERS:
        raise InvalidSequence(
            "id_too_long", f"the id has {len(record_id)} letters, over the limit of {MAX_ID_LETTERS}"
        )
    if not sequence:
        raise InvalidSequence("empty_sequence", "the sequence is empty")
    if len(sequence) > max_bases:
        raise InvalidSequence("sequence_too_long", f"the sequence has more than {max_bases} bases, the limit")
    check_letters(sequence)


def check_letters(sequence: str) -> None:
    """Check that every letter is one of `NUCLEOTIDE_CODES`, in either case.

    Raises:
        InvalidSequence: `invalid_nucleotides`, with the first letter that is not, and its position.
    """
    wrong = _NOT_A_CODE.search(sequence)
    if wrong:
        raise InvalidSequence(
            "invalid_nucleotides",
            f"{wrong.group()!a} at position {wrong.start() + 1} is not a nucleotide code; "
            f"the codes are {NUCLEOTIDE_CODES}, in either case",
        )
