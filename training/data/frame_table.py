"""A table of prepared frames: what training draws its batches from, and what is evaluated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from training.data.train_tokenizer import SPECIALS
from virnucpro_core.sequence.tokens import ESM2_PAD

DNA_PAD = SPECIALS.index("[PAD]")

Ids = TypeVar("Ids", np.uint8, np.int16)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Open frames, tokenised for both models and padded.

    protein uint8 [frames, tokens] and dna int16 [frames, tokens]: ids, padded at the end; frame_chunk int64
    [frames]: sorted, without gaps; chunk_record int64 [chunks]: index of the record in the corpus, sorted for
    an evaluation; chunk_span int64 [chunks, 2]: where it begins and ends there, -1 in a training table, whose
    chunks need not be a stretch of the record; chunk_piece int64 [chunks]: which piece of 5 kb the chunk is of,
    -1 for none; without int64 [1]: chunks that were left out because they have no open frame.
    """

    protein: npt.NDArray[np.uint8]
    dna: npt.NDArray[np.int16]
    frame_chunk: npt.NDArray[np.int64]
    chunk_record: npt.NDArray[np.int64]
    chunk_span: npt.NDArray[np.int64]
    chunk_piece: npt.NDArray[np.int64]
    without: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frame_chunk)

    def save(self, path: Path) -> None:
        """Write an npz file, all of it or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.npz")
        np.savez(unfinished, **{field.name: getattr(self, field.name) for field in fields(self)})
        unfinished.rename(path)

    @staticmethod
    def load(path: Path) -> Frames:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return Frames(**{field.name: file[field.name] for field in fields(Frames)})

    def of_records(self, records: npt.NDArray[np.int64]) -> Frames:
        """The chunks of some records, as a training table: int64 [records] of the corpus."""
        chunks = np.isin(self.chunk_record, records)
        rows = chunks[self.frame_chunk]
        return Frames(
            self.protein[rows],
            self.dna[rows],
            (np.cumsum(chunks) - 1)[self.frame_chunk[rows]],
            self.chunk_record[chunks],
            self.chunk_span[chunks],
            self.chunk_piece[chunks],
            np.zeros(1, np.int64),
        )

    @staticmethod
    def join(parts: Sequence[Frames]) -> Frames:
        """Tables one after the other as one."""
        chunks = np.cumsum([0] + [len(part.chunk_record) for part in parts])
        pieces = np.cumsum([0] + [int(part.chunk_piece.max(initial=-1)) + 1 for part in parts])
        return Frames(
            _stack([part.protein for part in parts]),
            _stack([part.dna for part in parts]),
            np.concatenate([p.frame_chunk + shift for p, shift in zip(parts, chunks, strict=False)]),
            np.concatenate([part.chunk_record for part in parts]),
            np.concatenate([part.chunk_span for part in parts]),
            np.concatenate([_shifted(p.chunk_piece, by) for p, by in zip(parts, pieces, strict=False)]),
            np.sum([part.without for part in parts], axis=0),
        )


def _shifted(piece: npt.NDArray[np.int64], by: int) -> npt.NDArray[np.int64]:
    return np.where(piece < 0, -1, piece + by)


def _stack(arrays: Sequence[npt.NDArray[Ids]]) -> npt.NDArray[Ids]:
    """Rows of several tables; the narrower ones get the padding of the widest."""
    width = max(array.shape[1] for array in arrays)
    pad = ESM2_PAD if arrays[0].dtype == np.uint8 else DNA_PAD
    return np.concatenate(
        [np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=pad) for array in arrays]
    )


def widths(length: int) -> tuple[int, int]:
    """Tokens of a row of a training table for chunks of `length` bases: of the protein, of the nucleotides.

    The nucleotides have a token a codon, two special ones, and a few for incomplete codons. The rare frames
    with more, because some letters are not bases, are not trained on.
    """
    codons = length // 3
    return -(-(codons + 2) // 8) * 8, -(-(codons + 4) // 8) * 8


def padded(
    proteins: Sequence[npt.NDArray[np.int32]], dna: Sequence[npt.NDArray[np.int32]], size: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
    """Token ids as the rows of a table, `size` tokens wide: of the proteins, of the nucleotides."""
    protein_rows = np.full((len(proteins), size[0]), ESM2_PAD, dtype=np.uint8)
    dna_rows = np.full((len(dna), size[1]), DNA_PAD, dtype=np.int16)
    for row, (of_protein, of_dna) in enumerate(zip(proteins, dna, strict=True)):
        protein_rows[row, : len(of_protein)] = of_protein
        dna_rows[row, : len(of_dna)] = of_dna
    return protein_rows, dna_rows
