"""Cut a sequence into VirNucPro's overlapping chunks."""

from __future__ import annotations


def chunk_spans(length: int, chunk_size: int) -> list[tuple[int, int]]:
    """Where VirNucPro cuts a sequence of `length` bases.

    The chunks are as many as it takes to cover the sequence. The letters that they hold beyond it are
    spread over the junctions as overlap, the longer overlaps first. The last chunk can come out shorter
    than `chunk_size`, as in the original (VirNucPro, `split_fasta_chunk`).

    Args:
        length: bases in the sequence, >= 0.
        chunk_size: bases in a full chunk (500 or 300 for the published models), >= 1.

    Returns:
        (start, end) of each chunk, 0-based, end exclusive, in order; empty for an empty sequence.

    Raises:
        ValueError: `length` is negative or `chunk_size` is not positive.
    """
    if length < 0:
        raise ValueError(f"a sequence cannot have {length} bases")
    if chunk_size < 1:
        raise ValueError(f"a chunk needs at least one base, not {chunk_size}")
    if length == 0:
        return []
    count = -(-length // chunk_size)
    surplus = count * chunk_size - length
    overlap = surplus // count
    # The original hands out surplus - overlap * (count - 1) longer overlaps; there are only count - 1
    # junctions, and where they are too few the rest is what makes the last chunk short.
    longer = surplus - overlap * (count - 1)
    spans = []
    start = 0
    for junction in range(count):
        spans.append((start, min(start + chunk_size, length)))
        start += chunk_size - overlap - (1 if junction < longer else 0)
    return spans


def chunk_name(record_id: str, index: int) -> str:
    """VirNucPro's name of a record's chunk; `index` counts from 0, the name from 1."""
    return f"{record_id}_chunk_{index + 1}"
