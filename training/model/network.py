"""The three models as one network that trains: the service's modules over padded rows of equal length.

The service packs frames end to end; training has rows of one width, so that one compiled graph serves every
step. The layers are the service's; what differs is the attention over padded frames. That both compute the same is
tested.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import esm
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from training.data.frame_table import DNA_PAD, Frames
from training.recipe import Shape
from virnucpro_core.bundle.manifest import DnabertSConfig, Esm2Config, HeadConfig
from virnucpro_core.models.attention import Attention, compute_dtype
from virnucpro_core.models.classifier import Head
from virnucpro_core.models.dnabert_s import DnabertS, alibi_slopes
from virnucpro_core.models.esm2_flash import Products, esm2_layer, layer_norm, token_dropout
from virnucpro_core.models.pooling import frame_features
from virnucpro_core.models.projections import concatenated
from virnucpro_core.models.rotary import angles
from virnucpro_core.sequence.tokens import ESM2_MASK, ESM2_PAD

CODONS, RESIDUES = 64, 20
SCORED_TOGETHER = 1024  # frames of one evaluation batch


class Encoders(nn.Module):
    """ESM-2 and DNABERT-S, newly initialised, over padded rows."""

    slopes: Tensor

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self.esm2 = esm.ESM2(shape.esm2_layers, shape.esm2_dim, shape.esm2_heads)
        self.esm2.apply(_initialise)
        # Not used in training: a bundle does not contain the contact head.
        self.esm2.contact_head.requires_grad_(False)
        config = DnabertSConfig(
            shape.dna_layers, shape.dna_dim, shape.dna_heads, shape.dna_intermediate, vocabulary
        )
        self.dnabert_s = DnabertS(config, "sdpa")
        self.register_buffer("slopes", torch.tensor(alibi_slopes(shape.dna_heads)), persistent=False)

    def forward(self, protein: Tensor, dna: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [frames, tokens, dim] of both models; ids int64 [frames, tokens], padded."""
        return self.of_protein(protein), self.of_dna(dna)

    def of_protein(self, ids: Tensor) -> Tensor:
        """ESM-2's own layers and token dropout, as the service computes them, with padding that nothing attends to."""
        model, (frames, tokens) = self.esm2, ids.shape
        present, masked = ids != ESM2_PAD, ids == ESM2_MASK
        share = masked.sum(1) / present.sum(1)
        x = token_dropout(model.embed_tokens(ids), masked | ~present, share[:, None, None]).flatten(0, 1)
        dtype = compute_dtype(model.embed_tokens.weight)
        of_position = angles(tokens, model.layers[0].self_attn.rot_emb.inv_freq)
        cos, sin = (
            table.to(dtype).repeat(frames, 1)[:, None, None]
            for table in (of_position.cos(), of_position.sin())
        )
        attend = padded_attention(present)
        for module in model.layers:
            x = esm2_layer(x, module, _products(module), attend, cos, sin)
        return layer_norm(x, model.emb_layer_norm_after).view(frames, tokens, -1)

    def of_dna(self, ids: Tensor) -> Tensor:
        """DNABERT-S: its own layers, with ALiBi."""
        attend = padded_attention(ids != DNA_PAD, self.slopes)
        x = self.dnabert_s.embeddings(ids.flatten())
        out: Tensor = self.dnabert_s.encoder(x, attend)
        return out.view(*ids.shape, -1)


class Network(nn.Module):
    """Encoders, classifier, and what predicts hidden tokens and pairs of neighbours.

    Args:
        shape: sizes.
        vocabulary: ids of the nucleotide tokenizer.
        dropout: share of the features, and of the classifier's hidden values, that training drops.
    """

    def __init__(self, shape: Shape, vocabulary: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.encoders = Encoders(shape, vocabulary)
        dim = shape.dna_dim
        self.dna_lm = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.dna_lm_bias = nn.Parameter(torch.zeros(vocabulary))
        self.codon_pairs = nn.Linear(dim, CODONS**2)
        self.residue_pairs = nn.Linear(shape.esm2_dim, RESIDUES**2)
        self.dropout = nn.Dropout(dropout)
        self.head = Head(shape.esm2_dim + dim, shape.head_hidden, dropout)

    @property
    def configs(self) -> tuple[Esm2Config, DnabertSConfig, HeadConfig]:
        """The shapes as a bundle's manifest has them."""
        shape = self.shape
        esm2 = Esm2Config(shape.esm2_layers, shape.esm2_dim, shape.esm2_heads)
        return esm2, self.encoders.dnabert_s.config, HeadConfig(shape.head_hidden)

    @property
    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
        """What trains of ESM-2, of DNABERT-S, and of the head."""
        return (
            _training(self.encoders.esm2, self.residue_pairs),
            [*_training(self.encoders.dnabert_s, self.dna_lm, self.codon_pairs), self.dna_lm_bias],
            _training(self.head),
        )

    @property
    def layer_matrices(self) -> list[nn.Parameter]:
        """The matrices in the layers of both encoders."""
        layers = (self.encoders.esm2.layers, self.encoders.dnabert_s.encoder)
        return [p for module in layers for p in module.parameters() if p.ndim == 2]

    def compile_encoders(self) -> None:
        """Compile what takes the time. Pre-training and training share the graph; a copy of the network, such
        as a moving average, is not compiled, and takes rows of any width."""
        self.encoders.compile(dynamic=False)

    def encode(self, protein: Tensor, dna: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of both models in fp32; on a GPU computed in bf16."""
        with torch.autocast("cuda", torch.bfloat16, enabled=protein.is_cuda):
            of_protein, of_dna = self.encoders(protein, dna)
        return of_protein.float(), of_dna.float()

    def features(self, protein: Tensor, dna: Tensor, of_protein: Tensor, of_dna: Tensor) -> Tensor:
        """VirNucPro's feature vectors, [frames, dna dim + protein dim]: means over residues and tokens."""
        places = torch.arange(protein.shape[1], device=protein.device)
        last = (protein != ESM2_PAD).sum(1, keepdim=True) - 1
        residues = ((places > 0) & (places < last)).float()
        tokens = (dna != DNA_PAD).float()
        return frame_features(_mean(of_dna, tokens), _mean(of_protein, residues))

    def predict_tokens(
        self, of_protein: Tensor, of_dna: Tensor, protein_places: Tensor, dna_places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of hidden tokens, [places, alphabet] and [places, vocabulary]; places index the flat rows."""
        proteins = self.encoders.esm2.lm_head(of_protein.flatten(0, 1).index_select(0, protein_places))
        words = self.encoders.dnabert_s.embeddings.word_embeddings.weight
        dna = self.dna_lm(of_dna.flatten(0, 1).index_select(0, dna_places)) @ words.T + self.dna_lm_bias
        return proteins, dna

    def predict_pairs(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the pairs of residues and of codons in a frame, [frames, 400] and [frames, 4096]."""
        dna, protein = torch.split(features, [self.shape.dna_dim, self.shape.esm2_dim], dim=1)
        return self.residue_pairs(protein), self.codon_pairs(dna)

    @torch.no_grad()
    def score(self, frames: Frames, device: torch.device) -> npt.NDArray[np.float32]:
        """Margins logit(virus) - logit(others) of a table's frames, float32 [frames]."""
        self.eval()
        margins = []
        for first in range(0, len(frames), SCORED_TOGETHER):
            rows = slice(first, first + SCORED_TOGETHER)
            protein = torch.from_numpy(frames.protein[rows].astype(np.int64)).to(device)
            dna = torch.from_numpy(frames.dna[rows].astype(np.int64)).to(device)
            logits = self.head(self.features(protein, dna, *self.encode(protein, dna)))
            margins.append(logits[:, 1] - logits[:, 0])
        found: npt.NDArray[np.float32] = torch.cat(margins).float().cpu().numpy()
        return found


def _training(*modules: nn.Module) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def padded_attention(present: Tensor, slopes: Tensor | None = None) -> Attention:
    """Attention over rows that are padded frames, one after the other.

    present: bool [frames, tokens], False for the padding at the end of a frame; slopes: float32 [heads] of ALiBi.
    """
    # In a compiled graph it becomes one kernel, without a mask of frames x heads x tokens x tokens; else it is slow.
    return flex(present, slopes) if torch.compiler.is_compiling() else masked_attention(present, slopes)


def flex(present: Tensor, slopes: Tensor | None) -> Attention:
    """`padded_attention` by torch's flex_attention, to be compiled."""
    frames, tokens = present.shape
    lengths = present.sum(1)

    def score(value: Tensor, frame: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if slopes is not None:
            value = value - slopes[head] * (query - key).abs()
        return torch.where(key < lengths[frame], value, -torch.inf)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (_by_frame(part, frames, tokens) for part in (q, k, v))
        out = flex_attention(q, k, v, score_mod=score)
        assert isinstance(out, Tensor)  # nothing else was asked for
        return out.transpose(1, 2).flatten(0, 1)

    return attend


def masked_attention(present: Tensor, slopes: Tensor | None) -> Attention:
    """`padded_attention` by torch, with a mask."""
    frames, tokens = present.shape
    mask = torch.zeros(present.shape, device=present.device).masked_fill(~present, -torch.inf)[:, None, None]
    if slopes is not None:
        places = torch.arange(tokens, device=present.device)
        mask = mask - slopes[:, None, None] * (places[:, None] - places).abs()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (_by_frame(part, frames, tokens) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        return out.transpose(1, 2).flatten(0, 1)

    return attend


def _by_frame(x: Tensor, frames: int, tokens: int) -> Tensor:
    """[frames * tokens, heads, head size] -> [frames, heads, tokens, head size]."""
    return x.view(frames, tokens, *x.shape[1:]).transpose(1, 2)


def _products(module: Any) -> Products:
    """The matrix products of fair-esm's layer; each weight gets its gradient."""
    attention = module.self_attn
    weight, bias = concatenated((attention.q_proj, attention.k_proj, attention.v_proj))
    return Products(partial(F.linear, weight=weight, bias=bias), attention.out_proj, module.fc1, module.fc2)


def _mean(hidden: Tensor, weights: Tensor) -> Tensor:
    """[frames, tokens, dim] -> [frames, dim], the mean over tokens of weight one."""
    return torch.bmm(weights[:, None], hidden)[:, 0] / weights.sum(1, keepdim=True)


def _initialise(module: nn.Module) -> None:
    """As BERT is; fair-esm's own start, embeddings of unit size, is too loud for its tied output layer."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
