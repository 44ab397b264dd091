"""Batches out of a table of frames that lies on the device, and the hiding of tokens there.

What a step sees depends on the seed and the step alone, so a run that was interrupted goes on as it would have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.frame_table import DNA_PAD, Frames
from training.data.train_tokenizer import SPECIALS
from virnucpro_core.sequence.tokens import ESM2_MASK, ESM2_PAD

DNA_MASK = SPECIALS.index("[MASK]")
AMINO_ACIDS = (4, 24)  # first and last (exclusive) of ESM-2's ids of the twenty amino acids
_MASKED, _RANDOM = 0.8, 0.1  # BERT's shares; the remaining tenth keeps its token and is predicted too


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of both models, int64 [frames, tokens], and whose they are: rows int64 [frames], places in the
    table; frame_chunk int64 [frames], numbers of the batch's chunks from 0; frame_record int64 [frames], records."""

    protein: Tensor
    dna: Tensor
    rows: Tensor
    frame_chunk: Tensor
    frame_record: Tensor


class Table:
    """A training table on the device, and the order in which its chunks come.

    Args:
        frames: the table.
        size: frames of a batch.
        seed: of the order; see `reseed`.
        device: where the table and the batches are.

    Raises:
        ValueError: the table has fewer frames than a batch, or none.
    """

    def __init__(self, frames: Frames, size: int, seed: int, device: torch.device) -> None:
        if len(frames) < max(size, 1):
            raise ValueError(f"a table of {len(frames)} frames cannot fill a batch of {size}")
        self.protein = torch.from_numpy(frames.protein).to(device)
        self.dna = torch.from_numpy(frames.dna).to(device)
        self.device, self.size, self._seed = device, size, seed
        self._frame_chunk, self._chunk_record = frames.frame_chunk, frames.chunk_record
        self._counts = np.bincount(frames.frame_chunk)
        self._starts = np.cumsum(self._counts) - self._counts
        self.steps = len(frames) // size
        self._epoch = -1
        self._order = self._record = self._chunk = torch.empty(0)
        self.present = (float((frames.protein != ESM2_PAD).mean()), float((frames.dna != DNA_PAD).mean()))

    def reseed(self, seed: int) -> None:
        """Another order."""
        self._seed, self._epoch = seed, -1

    def batch(self, step: int) -> Batch:
        """The batch of a step. All frames come once an epoch, those of a chunk one after the other; the last ones,
        too few for a batch, are left out. A chunk at the end of a batch goes on in the next, as another."""
        epoch, place = divmod(step, self.steps)
        if epoch != self._epoch:
            self._shuffle(epoch)
        rows = slice(place * self.size, (place + 1) * self.size)
        order, chunk = self._order[rows], self._chunk[rows]
        return Batch(
            self.protein.index_select(0, order).long(),
            self.dna.index_select(0, order).long(),
            order,
            chunk - chunk[0],
            self._record[rows],
        )

    def _shuffle(self, epoch: int) -> None:
        chunks = np.random.default_rng([self._seed, epoch]).permutation(len(self._counts))
        counts = self._counts[chunks]
        first = np.repeat(self._starts[chunks] - (np.cumsum(counts) - counts), counts)
        self._order = torch.from_numpy(first + np.arange(counts.sum())).to(self.device)
        self._chunk = torch.from_numpy(np.repeat(np.arange(len(chunks)), counts)).to(self.device)
        self._record = torch.from_numpy(np.repeat(self._chunk_record[chunks], counts)).to(self.device)
        self._epoch = epoch


@dataclass(frozen=True, slots=True)
class Hidden:
    """Rows with some tokens hidden: ids int64 [frames, tokens]; places and targets int64 [places], where (in
    the flat rows) tokens are to be predicted and which they were, -100 for none."""

    ids: Tensor
    places: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True)
class Alphabet:
    """What hiding needs to know: the mask token, the padding, the tokens first..last (last exclusive) that may
    stand in for another. Tokens outside that range are never hidden."""

    mask: int
    pad: int
    first: int
    last: int


PROTEIN = Alphabet(ESM2_MASK, ESM2_PAD, *AMINO_ACIDS)


def dna_alphabet(vocabulary: int) -> Alphabet:
    """Of a tokenizer with `vocabulary` ids."""
    return Alphabet(DNA_MASK, DNA_PAD, len(SPECIALS), vocabulary)


def hide(
    ids: Tensor, share: float, rows: float, present: float, alphabet: Alphabet, random: torch.Generator
) -> Hidden:
    """Hide tokens: about `share` of those in a share `rows` of the rows.

    The count is fixed by `present`, the share of positions that are not padding, so that every step has the same
    shapes; which places they are is drawn uniformly. A batch that allows fewer has targets of -100 for the rest.
    """
    device = ids.device
    count = int(ids.numel() * present * share * rows)
    drawn = torch.rand(ids.shape, generator=random, device=device)
    chosen_rows = torch.rand(len(ids), 1, generator=random, device=device) < rows
    allowed = (ids >= alphabet.first) & (ids < alphabet.last) & chosen_rows
    rank, places = torch.topk(drawn.masked_fill(~allowed, 2.0).flatten(), max(count, 1), largest=False)
    targets = ids.flatten().index_select(0, places)
    kind = torch.rand(len(places), generator=random, device=device)
    instead = torch.randint(alphabet.first, alphabet.last, places.shape, generator=random, device=device)
    new = torch.where(kind < _MASKED, alphabet.mask, torch.where(kind < _MASKED + _RANDOM, instead, targets))
    # If fewer places were allowed than the count asks for, the rest stay as they are and do not count.
    new = torch.where(rank < 1.5, new, targets)
    hidden = ids.flatten().scatter(0, places, new).view_as(ids)
    return Hidden(hidden, places, torch.where(rank < 1.5, targets, -100))
