"""Augmentation of open frames: other codons for the same protein, other amino acids, joined pieces.

Nucleotides are strings; what is drawn comes from the generator alone. A frame stays open: no stop codon is
ever made.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.data.corpus import Corpus
from virnucpro_core.sequence.frames import open_frames

_BASES = np.frombuffer(b"ACGT", dtype=np.uint8)
_CODE = np.full(256, 255, dtype=np.uint8)
_CODE[_BASES] = range(4)
_STOP = ord("*")
# The standard genetic code, codons in the order AAA, AAC, AAG, AAT, ACA, ... TTT.
_AMINO = np.frombuffer(b"KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF", dtype=np.uint8)
_ORDER = np.argsort(_AMINO, kind="stable")  # codons, those of an amino acid together
_SORTED = _AMINO[_ORDER]
_FIRST = np.searchsorted(_SORTED, _AMINO, side="left")  # by codon: where its synonyms begin and end
_LAST = np.searchsorted(_SORTED, _AMINO, side="right") - 1
_GC = np.array([sum(base in (1, 2) for base in (c // 16, c // 4 % 4, c % 4)) for c in range(64)])
_PIECES = (240, 340)  # letters of a stitched chunk's pieces: long enough to be mostly coding, short as exons
_TRIES = 60

Codons = npt.NDArray[np.int64]


def _codons(nucleotides: str) -> Codons | None:
    """Codons 0..63 of a frame, without what is left over; None if a letter is not a base."""
    codes = _CODE[np.frombuffer(nucleotides.encode("ascii"), dtype=np.uint8)]
    whole = codes[: len(codes) // 3 * 3].reshape(-1, 3).astype(np.int64)
    if len(whole) == 0 or (whole == 255).any():
        return None
    codons: Codons = whole @ np.array([16, 4, 1])
    return codons


def _letters(codons: Codons) -> str:
    bases = np.stack([codons // 16, codons // 4 % 4, codons % 4], axis=1)
    return _BASES[bases].tobytes().decode("ascii")


def recode(nucleotides: str, rng: np.random.Generator) -> str:
    """The same protein in the codon usage of an organism that does not exist, from AT-rich to GC-rich.

    A random share of the codons is resampled. A frame with a letter that is not a base comes back as it is.
    """
    codons = _codons(nucleotides)
    if codons is None:
        return nucleotides
    usage = np.exp(rng.normal(0, 1.2) * _GC + rng.normal(0, 0.5, 64))[_ORDER]
    upper = np.cumsum(usage)
    lower = upper - usage
    low, high = lower[_FIRST[codons]], upper[_LAST[codons]]
    drawn = np.searchsorted(upper, low + (high - low) * rng.random(len(codons)), side="right")
    drawn = _ORDER[np.clip(drawn, _FIRST[codons], _LAST[codons])]
    new = np.where(rng.random(len(codons)) < rng.random(), drawn, codons)
    return _letters(new) + nucleotides[3 * len(codons) :]


def mutate(nucleotides: str, protein: str, rate: float, rng: np.random.Generator) -> tuple[str, str]:
    """A frame's nucleotides with one base of a share `rate` of the codons redrawn, and their protein.

    Changes that would make a stop codon are left out. A frame with a letter that is not a base comes back as it
    is, its protein too: that one holds codons beyond such letters.
    """
    codons = _codons(nucleotides)
    if codons is None:
        return nucleotides, protein
    place = np.array([16, 4, 1])[rng.integers(0, 3, len(codons))]
    others = codons - codons // place % 4 * place + rng.integers(0, 4, len(codons)) * place
    hit = (rng.random(len(codons)) < rate) & (_AMINO[others] != _STOP)
    new = np.where(hit, others, codons)
    return _letters(new) + nucleotides[3 * len(codons) :], _AMINO[new].tobytes().decode("ascii")


def stitch(corpus: Corpus, record: int, letters: int, rng: np.random.Generator) -> str:
    """Open pieces of one record joined in frame, as a transcript joins exons; "" if too few are found.

    Eukaryotic genomes hold few open frames as long as a chunk, their transcripts many.
    """
    length = int(corpus.lengths[record])
    joined = ""
    for _ in range(_TRIES):
        size = int(rng.integers(*_PIECES))
        start = int(rng.integers(max(length - size, 0) + 1))
        frames = open_frames(corpus.sequence(record, start, start + size))
        if frames:
            frame = frames[int(rng.integers(len(frames)))]
            joined += frame.nucleotides[: len(frame.nucleotides) // 3 * 3]
        if len(joined) >= letters:
            return joined[:letters]
    return ""
