"""RNA: sequences written with U for T. The models know A, C, G and T only; VirNucPro drops every codon with a U."""

from __future__ import annotations

_U_AS_T = str.maketrans("Uu", "Tt")


def holds_u(sequence: str) -> bool:
    """Whether a sequence holds a U, in either case; T beside it does not matter."""
    return "U" in sequence or "u" in sequence


def u_as_t(sequence: str) -> str:
    """The sequence with every U as T, case kept; a sequence without U is returned as it is."""
    return sequence.translate(_U_AS_T) if holds_u(sequence) else sequence
