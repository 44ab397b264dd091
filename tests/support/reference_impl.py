"""VirNucPro's rules a second time: slow, plain, and without a line of `virnucpro_core`.

Written from the description of what the published program does, letter by letter and with strings only, so
that the tables and array passes of the package have something to be wrong against.
"""

from __future__ import annotations

from dataclasses import dataclass

# The standard genetic code in the textbook order: T, C, A, G at each place.
_AMINO_ACIDS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODONS = {
    first + second + third: _AMINO_ACIDS[16 * i + 4 * j + k]
    for i, first in enumerate("TCAG")
    for j, second in enumerate("TCAG")
    for k, third in enumerate("TCAG")
}
PARTNERS = {"A": "T", "C": "G", "G": "C", "T": "A"}


@dataclass(frozen=True)
class Frame:
    name: str
    nucleotides: str
    protein: str


@dataclass(frozen=True)
class Chunk:
    name: str
    start: int
    letters: str
    frames: list[Frame]


def cut(sequence: str, size: int) -> list[tuple[int, str]]:
    """(start, letters) of each chunk: k chunks, kL - n letters too many, shared out over the junctions."""
    count = 0
    while count * size < len(sequence):
        count += 1
    if count == 0:
        return []
    surplus = count * size - len(sequence)
    base = surplus // count
    longer = surplus - base * (count - 1)
    chunks = []
    start = 0
    for number in range(count):
        chunks.append((start, sequence[start : start + size]))
        overlap = base + 1 if number < longer else base
        start = start + size - overlap
    return chunks


def reverse_complement(letters: str) -> str:
    swapped = ""
    for letter in letters:
        swapped = PARTNERS.get(letter, letter) + swapped
    return swapped


def translate(letters: str) -> str:
    protein = ""
    position = 0
    while position + 3 <= len(letters):
        protein += CODONS.get(letters[position : position + 3], "")
        position += 3
    return protein


def open_frames(chunk_name: str, chunk: str) -> list[Frame]:
    upper = chunk.upper()
    found = []
    for letter, strand in (("F", upper), ("R", reverse_complement(upper))):
        for frame in (1, 2, 3):
            protein = translate(strand[frame - 1 :])
            if protein != "" and "*" not in protein:
                nucleotides = strand[frame - 1 : frame + 3 * len(protein)]
                found.append(Frame(f"{chunk_name}{letter}{frame}", nucleotides, protein))
    return found


def process(record_id: str, sequence: str, size: int) -> list[Chunk]:
    """All chunks of a record with their open frames, in the original's order."""
    chunks = []
    for number, (start, letters) in enumerate(cut(sequence, size), start=1):
        name = f"{record_id}_chunk_{number}"
        chunks.append(Chunk(name, start, letters, open_frames(name, letters)))
    return chunks


def verdict(scores: list[tuple[float, float]]) -> str:
    """Of (others, virus) pairs, for a chunk or, as this project applies it, for a record."""
    if not scores:
        return "no_open_frame"
    highest_others = sorted(others for others, _ in scores)[-1]
    highest_virus = sorted(virus for _, virus in scores)[-1]
    return "others" if highest_others > highest_virus else "virus"
