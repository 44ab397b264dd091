"""Sequence records for benchmarks: random, the same for the same seed; half of them have an open frame, as reads do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

STOPS = ("TAA", "TAG", "TGA")
READ = 500
"""Bases of a read: one full chunk."""
MIXED = (60, 500)
"""Bases of the shortest and the longest record of a stream of mixed lengths."""
_CODONS = np.array(
    [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in STOPS], dtype="S3"
)
_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)


def reads(count: int, shortest: int = READ, longest: int = READ, seed: int = 1) -> Iterator[tuple[str, str]]:
    """(id, letters) of `count` records of so many bases.

    Every second one is of codons without a stop, and so has an open frame; one of random letters that is long has
    hardly any.
    """
    random = np.random.default_rng(seed)
    for number in range(count):
        bases = int(random.integers(shortest, longest + 1))
        if number % 2:
            letters = _CODONS[random.integers(0, len(_CODONS), bases // 3 + 1)].tobytes()[:bases]
        else:
            letters = _LETTERS[random.integers(0, 4, bases)].tobytes()
        yield f"r{number}", letters.decode("ascii")


def partition_of(number: int, partitions: int) -> int:
    """Where record `number` goes: every partition gets as many records with an open frame as without."""
    return number // 2 % partitions
