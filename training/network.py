"""The three models as one network that trains: the service's modules, and a head for masked nucleotides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import esm
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.shards import Shard
from virnucpro_core.models.classifier import Head
from virnucpro_core.models.dnabert_s import DnabertS
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.layout import PackedLayout, to_device
from virnucpro_core.models.manifest import DnabertSConfig, Esm2Config, HeadConfig
from virnucpro_core.models.pooling import frame_features, mean_of_residues, mean_of_tokens
from virnucpro_core.packing import PackedTokens, pack_frames
from virnucpro_core.prepare import PreparedFrame

ESM2 = Esm2Config(layers=4, dim=192, heads=6)
DNA_LAYERS, DNA_DIM, DNA_HEADS, DNA_INTERMEDIATE = 4, 128, 4, 512
HEAD = HeadConfig(hidden=128)
SCORED_TOGETHER = 1024  # frames of one evaluation batch


@dataclass(frozen=True, slots=True)
class Tokens:
    """Packed token ids of one model on the device, ids int32 [tokens], with their layout."""

    ids: Tensor
    layout: PackedLayout

    @staticmethod
    def of(packed: PackedTokens, device: torch.device) -> Tokens:
        """Move them there."""
        layout = PackedLayout.build(packed.cu_seqlens, len(packed.ids), device)
        return Tokens(to_device(packed.ids, device), layout)


@dataclass(frozen=True, slots=True)
class Batch:
    """A shard on the device. *_positions and *_targets int64 [hidden]: see noise.Masked; frame_chunk int64
    [frames]; chunk_label float32 [chunks]."""

    protein: Tokens
    protein_positions: Tensor
    protein_targets: Tensor
    dna: Tokens
    dna_positions: Tensor
    dna_targets: Tensor
    frame_chunk: Tensor
    chunk_label: Tensor

    @staticmethod
    def of(shard: Shard, device: torch.device) -> Batch:
        """Move it there."""
        return Batch(
            Tokens.of(_packed(shard.protein.ids, shard.protein_lengths), device),
            to_device(shard.protein.positions, device),
            to_device(shard.protein.targets, device),
            Tokens.of(_packed(shard.dna.ids, shard.dna_lengths), device),
            to_device(shard.dna.positions, device),
            to_device(shard.dna.targets, device),
            to_device(shard.frame_chunk, device),
            to_device(shard.chunk_label.astype(np.int64), device).float(),
        )


def _packed(ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> PackedTokens:
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return PackedTokens(ids, bounds, int(lengths.max()))


class Network(nn.Module):
    """ESM-2, DNABERT-S and the classifier, newly initialised.

    Args:
        vocabulary: ids of the nucleotide tokenizer.
        dropout: share of the features, and of the classifier's hidden values, that training drops.
        backend: what computes ESM-2's attention. Named, not chosen by what is installed: a run should not
            depend on that, and some builds of flash-attn have no backward. DNABERT-S takes `sdpa`.
    """

    def __init__(self, vocabulary: int, dropout: float, backend: str = "sdpa") -> None:
        super().__init__()
        model = esm.ESM2(ESM2.layers, ESM2.dim, ESM2.heads)
        model.apply(_initialise)
        self.esm2 = ESM2WithFlashAttention(model, backend)
        config = DnabertSConfig(DNA_LAYERS, DNA_DIM, DNA_HEADS, DNA_INTERMEDIATE, vocabulary)
        self.dnabert_s = DnabertS(config, "sdpa")
        self.dna_lm = nn.Sequential(nn.Linear(DNA_DIM, DNA_DIM), nn.GELU(), nn.LayerNorm(DNA_DIM))
        self.dna_lm_bias = nn.Parameter(torch.zeros(vocabulary))
        self.dropout = nn.Dropout(dropout)
        self.head = Head(ESM2.dim + DNA_DIM, HEAD.hidden, dropout)
        # Of no use to training: the contact head is never trained, and is no part of a bundle.
        model.contact_head.requires_grad_(False)

    def encode(self, protein: Tokens, dna: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Features float32 [frames, DNA_DIM + ESM2.dim], and the hidden states of both models' tokens."""
        last = self.esm2.num_layers
        with torch.autocast("cuda", torch.bfloat16, enabled=protein.ids.is_cuda):
            hidden = self.esm2.forward_packed(protein.ids, protein.layout, protein.layout.max_seqlen)
            of_protein = hidden["representations"][last]
            of_dna = self.dnabert_s.forward_packed(dna.ids, dna.layout, dna.layout.max_seqlen)
        means = mean_of_tokens(of_dna, dna.layout), mean_of_residues(of_protein, protein.layout)
        return frame_features(*means), of_protein.float(), of_dna.float()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits float32 [frames, 2], and those of hidden tokens: [hidden, alphabet], [hidden, vocabulary]."""
        pooled, of_protein, of_dna = self.encode(batch.protein, batch.dna)
        proteins = self.esm2.model.lm_head(of_protein.index_select(0, batch.protein_positions))
        words = self.dnabert_s.embeddings.word_embeddings.weight
        dna = self.dna_lm(of_dna.index_select(0, batch.dna_positions)) @ words.T + self.dna_lm_bias
        return self.head(self.dropout(pooled)), proteins, dna

    @torch.inference_mode()
    def score(self, frames: Sequence[PreparedFrame], device: torch.device) -> npt.NDArray[np.float32]:
        """Scores of prepared frames, float32 [frames, 2]; for the dev split, in training's precision."""
        self.eval()
        pooled = (self.encode(protein, dna)[0] for protein, dna in _batches(frames, device))
        parts = [torch.softmax(self.head(features), dim=1) for features in pooled]
        scores: npt.NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return scores


def _batches(frames: Sequence[PreparedFrame], device: torch.device) -> Iterator[tuple[Tokens, Tokens]]:
    for first in range(0, len(frames), SCORED_TOGETHER):
        packed = pack_frames(frames[first : first + SCORED_TOGETHER])
        yield Tokens.of(packed.protein, device), Tokens.of(packed.dna, device)


def _initialise(module: nn.Module) -> None:
    """As BERT is; fair-esm's own start, embeddings of unit size, is too loud for its tied output layer."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
