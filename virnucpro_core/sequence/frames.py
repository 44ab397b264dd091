"""Translate chunks in six frames and keep the open ones.

A whole record is translated once: the codons of both strands are numbered in one numpy pass and looked up as bytes, and
the amino acids are laid out by reading phase, so that a frame of any chunk is a slice of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

FRAME_LABELS = ("F1", "F2", "F3", "R1", "R2", "R3")

_BASES = b"ACGT"
_OTHER = 4  # the code of every letter that is not a base
_STOP = b"*"
_DROPPED = b"\0"  # stands for a codon with a letter other than A, C, G, T until the protein is cut out
# The standard genetic code, codons in the order AAA, AAC, AAG, AAT, ACA, ... TTT.
_STANDARD_CODE = b"KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


def _base_codes() -> bytes:
    """The code of each byte as a letter, for `bytes.translate`."""
    table = bytearray([_OTHER] * 256)
    for code, base in enumerate(_BASES):
        table[base] = code
    return bytes(table)


def _amino_acids() -> bytes:
    """Amino acid letters by codon, [5, 5, 5] flattened, for `bytes.translate`: 125 codons, filled up to 256."""
    table = np.full((5, 5, 5), _DROPPED[0], dtype=np.uint8)
    table[:4, :4, :4] = np.frombuffer(_STANDARD_CODE, dtype=np.uint8).reshape(4, 4, 4)
    return table.tobytes().ljust(256, _DROPPED)


_BASE_CODES = _base_codes()
_AMINO_ACIDS = _amino_acids()


@dataclass(frozen=True, slots=True)
class OpenFrame:
    """A reading frame without a stop codon.

    Attributes:
        label: one of `FRAME_LABELS`.
        nucleotides: what DNABERT-S sees: upper case, the strand from the frame's first letter on, one
            letter more than the codons where there is one. Where codons were dropped it is a prefix of
            the strand, not the codons' own letters.
        protein: what ESM-2 sees, never empty, without `*`.
    """

    label: str
    nucleotides: str
    protein: str


class _Strand:
    """One strand of a whole record, translated in its three phases."""

    __slots__ = ("_phases", "bases")

    def __init__(self, bases: bytes) -> None:
        self.bases = bases
        codes = np.frombuffer(bases.translate(_BASE_CODES), dtype=np.uint8)
        codons = codes[:-2] * np.uint8(25)
        codons += codes[1:-1] * np.uint8(5)
        codons += codes[2:]
        residues = codons.tobytes().translate(_AMINO_ACIDS)
        self._phases = (residues[::3], residues[1::3], residues[2::3])

    def open_frames(self, start: int, end: int, labels: Sequence[str]) -> Iterator[OpenFrame]:
        """The open frames of the strand's letters start..end, as frames 1, 2, 3 under these labels."""
        for first, label in enumerate(labels, start=start):
            codon = first // 3
            # A chunk of one letter ends before its third frame starts.
            residues = self._phases[first % 3][codon : codon + max(end - first, 0) // 3]
            if _STOP in residues:
                continue
            protein = residues.replace(_DROPPED, b"")
            if protein:
                nucleotides = self.bases[first : min(first + 3 * len(protein) + 1, end)]
                yield OpenFrame(label, nucleotides.decode("ascii"), protein.decode("ascii"))


def open_frames_by_span(sequence: str, spans: Sequence[tuple[int, int]]) -> list[list[OpenFrame]]:
    """The open frames of each chunk of a record.

    Args:
        sequence: ASCII letters in any case.
        spans: (start, end) of each chunk, 0-based, end exclusive, within the sequence.

    Returns:
        for each span its open frames in the order of `FRAME_LABELS`. A codon with any letter other than
        A, C, G, T (U, N and the other IUPAC codes included) is dropped from its protein. The reverse
        complement swaps A, C, G, T and leaves every other letter, as in VirNucPro (`identify_seq`).

    Raises:
        UnicodeEncodeError: (a ValueError) the sequence holds a letter outside ASCII.
    """
    if not spans:
        return []
    bases = sequence.encode("ascii").upper()
    forward = _Strand(bases)
    reverse = _Strand(bases.translate(_COMPLEMENT)[::-1])
    length = len(bases)
    return [
        [
            *forward.open_frames(start, end, FRAME_LABELS[:3]),
            *reverse.open_frames(length - end, length - start, FRAME_LABELS[3:]),
        ]
        for start, end in spans
    ]


def open_frames(chunk: str) -> list[OpenFrame]:
    """The open frames of one chunk; see `open_frames_by_span`. An empty chunk has none."""
    return open_frames_by_span(chunk, [(0, len(chunk))])[0]
