"""What training minimises: the classification of frames and chunks, and the losses that need no labels.

Without labels the encoders learn hidden tokens, and which pairs stand side by side. Hidden tokens teach context. They
alone make the mean over a frame, which is all that the classifier sees, poorer: encoders that are good at them move
what sets a frame apart out of it. So each mean also has to predict which pairs of neighbouring codons, or residues, its
frame holds: the bag of words of PV-DBOW (Le and Mikolov 2014, arXiv:1405.4053) with pairs as words. Codon pairs differ
between viruses and hosts that share no protein.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from training.data.batches import AMINO_ACIDS, PROTEIN, Batch, Table, dna_alphabet, hide
from training.model.network import CODONS, RESIDUES, Network
from virnucpro_core.sequence.tokens import ESM2_ALPHABET_SIZE

FRAME, CHUNK = 0.5, 0.5  # how much the two ways to look at a verdict count
_CODONS = {"".join(bases): number for number, bases in enumerate(product("ACGT", repeat=3))}


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars: of hidden amino acids and hidden nucleotide tokens; of pairs of residues and pairs of codons."""

    protein: Tensor
    dna: Tensor
    residue_pairs: Tensor
    codon_pairs: Tensor

    def weighted(self, lm_weight: float, pairs_weight: float) -> Tensor:
        """Their weighted sum."""
        return lm_weight * (self.protein + self.dna) + pairs_weight * (self.residue_pairs + self.codon_pairs)


class UnlabelledLosses:
    """The losses of batches of one table.

    Args:
        table: whose batches they are.
        codons: see `codons_of`.
        masked: share of the tokens hidden, of the protein and of the nucleotides.
        rows: share of the frames with hidden tokens.
    """

    def __init__(self, table: Table, codons: Tensor, masked: tuple[float, float], rows: float) -> None:
        self._present, self._masked, self._rows = table.present, masked, rows
        self._codons = codons.to(table.device)
        residues = torch.full((ESM2_ALPHABET_SIZE,), -1)
        residues[slice(*AMINO_ACIDS)] = torch.arange(RESIDUES)
        self._residues = residues.to(table.device)

    def __call__(self, network: Network, batch: Batch, random: torch.Generator) -> tuple[Tensor, Losses]:
        """Features of the batch with hidden tokens, float [frames, dim], and its losses."""
        of_protein, of_dna = self._present
        vocabulary = len(network.dna_lm_bias)
        protein = hide(batch.protein, self._masked[0], self._rows, of_protein, PROTEIN, random)
        dna = hide(batch.dna, self._masked[1], self._rows, of_dna, dna_alphabet(vocabulary), random)
        hidden = network.encode(protein.ids, dna.ids)
        features = network.features(protein.ids, dna.ids, *hidden)
        tokens = network.predict_tokens(*hidden, protein.places, dna.places)
        pairs = network.predict_pairs(features)
        return features, Losses(
            hidden_token_loss(tokens[0], protein.targets),
            hidden_token_loss(tokens[1], dna.targets),
            pair_loss(pairs[0], self._residues[batch.protein], RESIDUES),
            pair_loss(pairs[1], self._codons[batch.dna], CODONS),
        )


def codons_of(tokenizer: Path) -> Tensor:
    """Of each token of a tokenizer.json the number of its codon, 0..63, or -1 if it is none; int64 [vocabulary]."""
    tokens = Tokenizer.from_file(str(tokenizer))
    words = (tokens.id_to_token(i) for i in range(tokens.get_vocab_size()))
    return torch.tensor([-1 if word is None else _CODONS.get(word, -1) for word in words])


def hidden_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of hidden tokens: logits [places, vocabulary], targets int64 [places].

    A target below zero does not count (see batches.hide); 0 if none counts.
    """
    of_place = F.cross_entropy(logits, targets.clamp(min=0), reduction="none")
    counts = targets >= 0
    return (of_place * counts).sum() / counts.sum().clamp(min=1)


def pair_loss(logits: Tensor, symbols: Tensor, count: int) -> Tensor:
    """Mean cross-entropy of the pairs that stand side by side in each row; 0 if there is none.

    logits float [rows, count * count], of the pair (a, b) at a * count + b; symbols int64 [rows, places]:
    0..count-1, or -1 for what is part of no pair.
    """
    left, right = symbols[:, :-1], symbols[:, 1:]
    counts = (left >= 0) & (right >= 0)
    pairs = (left * count + right).masked_fill(~counts, 0)
    of_pair = logits.log_softmax(1).gather(1, pairs)
    return -(of_pair * counts).sum() / counts.sum().clamp(min=1)


def chunk_margins(margins: Tensor, frame_chunk: Tensor, chunks: int) -> Tensor:
    """The margin behind a chunk's verdict, float [chunks]; 0 for a number that no frame has.

    VirNucPro calls a chunk a virus if its highest virus score is at least its highest others score. With
    margins m = logit(virus) - logit(others) [frames] that is max(m) + min(m) >= 0: the frame surest of a
    virus against the frame surest of the opposite. The half keeps a chunk of one frame at its own margin.
    """
    zeros = margins.new_zeros(chunks)
    highest = zeros.scatter_reduce(0, frame_chunk, margins, "amax", include_self=False)
    lowest = zeros.scatter_reduce(0, frame_chunk, margins, "amin", include_self=False)
    return (highest + lowest) / 2


def targets(label: Tensor, smoothing: float) -> Tensor:
    """What margins are trained towards, as probabilities of a virus, float [n]: label float [n], 1 for a virus,
    moved towards one half by `smoothing`."""
    return label * (1 - smoothing) + smoothing / 2


def classification_loss(
    margins: Tensor, frame_chunk: Tensor, frame_label: Tensor, smoothing: float
) -> Tensor:
    """Weighted sum of the frames' and the chunks' cross-entropy.

    margins float [frames]; frame_chunk int64 [frames], below the number of frames; frame_label float [frames],
    the same for all frames of a chunk; smoothing: see `targets`.
    """
    # As many places as frames, whatever the number of chunks: shapes stay the same from step to step.
    places = len(margins)
    chunk_label = torch.zeros_like(margins).scatter(0, frame_chunk, frame_label)
    there = torch.zeros_like(margins).scatter(0, frame_chunk, 1.0)
    frames = F.binary_cross_entropy_with_logits(margins, targets(frame_label, smoothing))
    chunks = F.binary_cross_entropy_with_logits(
        chunk_margins(margins, frame_chunk, places), targets(chunk_label, smoothing), reduction="none"
    )
    return FRAME * frames + CHUNK * (chunks * there).sum() / there.sum()
