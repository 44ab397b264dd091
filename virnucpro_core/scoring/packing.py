"""Frames laid end to end, without padding, and how many of them a token budget holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.sequence.prepare import PreparedFrame

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class PackedTokens:
    """Segments one after the other, for one model.

    Attributes:
        ids: int32 [total], the token ids of all segments.
        cu_seqlens: int32 [segments + 1], segment i is ids[cu_seqlens[i]:cu_seqlens[i + 1]].
        max_seqlen: tokens of the longest segment, 0 without segments.
    """

    ids: NDArray[np.int32]
    cu_seqlens: NDArray[np.int32]
    max_seqlen: int


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """A batch of frames for both models: segment i of either belongs to frame i."""

    protein: PackedTokens
    dna: PackedTokens


def pack(segments: Sequence[NDArray[np.int32]]) -> PackedTokens:
    """Lay segments of token ids, int32 [tokens] each, end to end."""
    lengths = [len(segment) for segment in segments]
    cu_seqlens = np.zeros(len(segments) + 1, dtype=np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    ids = np.concatenate(segments) if segments else np.empty(0, dtype=np.int32)
    return PackedTokens(ids, cu_seqlens, max(lengths, default=0))


def pack_frames(frames: Sequence[PreparedFrame]) -> PackedBatch:
    """Pack the tokens of both models, in the order of `frames`."""
    return PackedBatch(
        protein=pack([frame.protein_ids for frame in frames]), dna=pack([frame.dna_ids for frame in frames])
    )


class Packer(Generic[Item]):
    """Collects frames, each with what belongs to it, until they fill a token budget.

    Args:
        token_budget: most tokens of a batch, for either model.
    """

    def __init__(self, token_budget: int) -> None:
        self._token_budget = token_budget
        self._waiting: list[Item] = []
        self._protein_tokens = self._dna_tokens = 0

    def add(self, item: Item, frame: PreparedFrame) -> list[Item]:
        """Add a frame; gives the batch that it no longer fits into, or nothing.

        Raises:
            ValueError: the frame alone is over the budget.
        """
        tokens, dna_tokens = frame.tokens, len(frame.dna_ids)
        if max(tokens, dna_tokens) > self._token_budget:
            raise ValueError(
                f"a frame of {tokens} protein and {dna_tokens} nucleotide tokens is over the token budget of "
                f"{self._token_budget}: raise the budget"
            )
        full = max(self._protein_tokens + tokens, self._dna_tokens + dna_tokens) > self._token_budget
        batch = self.take() if full else []
        self._waiting.append(item)
        self._protein_tokens += tokens
        self._dna_tokens += dna_tokens
        return batch

    def take(self) -> list[Item]:
        """The frames that wait, as a batch that need not be full."""
        batch, self._waiting = self._waiting, []
        self._protein_tokens = self._dna_tokens = 0
        return batch


def batches(frames: Iterable[PreparedFrame], token_budget: int) -> Iterator[list[PreparedFrame]]:
    """Frames in their order, in batches that are as full as the budget allows. Holds one batch at a time.

    Raises:
        ValueError: a frame alone is over the budget.
    """
    packer = Packer[PreparedFrame](token_budget)
    for frame in frames:
        if batch := packer.add(frame, frame):
            yield batch
    if batch := packer.take():
        yield batch


def how_many_fit(frames: Iterable[PreparedFrame], token_budget: int) -> tuple[int, int, bool]:
    """How many of the first frames make one batch: neither model gets more tokens than the budget.

    Returns:
        (frames, their protein tokens, whether a further frame is there that did not fit). No frames and
        True: the first frame alone is over the budget.
    """
    count = protein_tokens = dna_tokens = 0
    for frame in frames:
        protein_tokens += frame.tokens
        dna_tokens += len(frame.dna_ids)
        if max(protein_tokens, dna_tokens) > token_budget:
            return count, protein_tokens - frame.tokens, True
        count += 1
    return count, protein_tokens, False
