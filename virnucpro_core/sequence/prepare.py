"""From a sequence to what the models read: chunks, open frames, token ids. Pure and thread-safe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnucpro_core.sequence.chunks import chunk_spans
from virnucpro_core.sequence.frames import open_frames_by_span
from virnucpro_core.sequence.rna import holds_u, u_as_t
from virnucpro_core.sequence.tokens import DnaTokenizer, esm2_token_ids


@dataclass(frozen=True, slots=True, eq=False)
class PreparedFrame:
    """One open frame, tokenised for both models.

    Attributes:
        chunk: index of its chunk in the record, from 0.
        label: one of `virnucpro_core.sequence.frames.FRAME_LABELS`.
        protein_ids: int32 [residues + 2], for ESM-2.
        dna_ids: int32 [tokens], special tokens included, for DNABERT-S.
    """

    chunk: int
    label: str
    protein_ids: NDArray[np.int32]
    dna_ids: NDArray[np.int32]

    @property
    def tokens(self) -> int:
        """Tokens of the protein, cls and eos included: what the ESM-2 forward costs."""
        return len(self.protein_ids)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRecord:
    """A record cut, translated and tokenised.

    Attributes:
        record_id: the record's id.
        length: bases in the sequence.
        spans: (start, end) of each chunk, 0-based, end exclusive.
        frames: the open frames in the order of chunk and label; a chunk may have none.
        rna: whether the sequence holds a U.
    """

    record_id: str
    length: int
    spans: tuple[tuple[int, int], ...]
    frames: tuple[PreparedFrame, ...]
    rna: bool = False

    @property
    def tokens(self) -> int:
        """Protein tokens of all frames."""
        return sum(frame.tokens for frame in self.frames)


def prepare(
    record_id: str, sequence: str, chunk_size: int, tokenizer: DnaTokenizer, keep_u: bool = False
) -> PreparedRecord:
    """Cut a valid sequence into chunks, find their open frames and tokenise these.

    Args:
        record_id: the record's id.
        sequence: nucleotide codes in any case, as `virnucpro_core.sequence.validation.validate` accepts them.
        chunk_size: bases in a full chunk, the model's expected length.
        tokenizer: the model's nucleotide tokenizer.
        keep_u: leave U as it is, so that codons with it are dropped, as in the original; else U is read as T.

    Raises:
        ValueError: the sequence holds a letter outside ASCII, or `chunk_size` is not positive.
    """
    spans = chunk_spans(len(sequence), chunk_size)
    rna = holds_u(sequence)
    if rna and not keep_u:
        sequence = u_as_t(sequence)
    found = [
        (chunk, frame)
        for chunk, frames in enumerate(open_frames_by_span(sequence, spans))
        for frame in frames
    ]
    nucleotides = tokenizer.encode([frame.nucleotides for _, frame in found])
    return PreparedRecord(
        record_id,
        len(sequence),
        tuple(spans),
        tuple(
            PreparedFrame(chunk, frame.label, esm2_token_ids(frame.protein), dna_ids)
            for (chunk, frame), dna_ids in zip(found, nucleotides, strict=True)
        ),
        rna,
    )
