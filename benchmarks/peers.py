"""ESM-2's forward by this project and by its peers, with the same random weights on one GPU.

Each method takes proteins (token ids) and gives a forward over them, with its inputs on the device already, so that
the forward alone is timed. `benchmarks.gpu` compares them.

* This project's packed forward, in any of its precisions, with Triton's kernels or plain torch.
* fair-esm itself, in batches padded to the longest protein and sorted by length.
* FAESM (package `faesm`) with flash-attn, where it can be imported.
* The published VirNucPro v2 (package `virnucpro`), which is fp16, where it can be imported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import esm
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.forward import Proteins, padded_batches
from virnucpro_core.bundle.manifest import Esm2Config
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.pooling import mean_of_residues
from virnucpro_core.models.precision import PRECISIONS
from virnucpro_core.scoring.packing import pack

PUBLISHED = "published v2 fp16"
_LAYERS_OF_WEIGHTS = 12
"""Layers with separate weights in the products-only measurement: more than the caches hold."""

Forward = Callable[[Proteins], Callable[[], Tensor]]
"""Proteins -> a forward over them, inputs on the device already; it returns a row a token."""


@dataclass(frozen=True)
class Peer:
    """A method of others, or why it cannot run."""

    name: str
    forward: Forward | None
    reason: str = ""


@dataclass(frozen=True)
class Own:
    """This project's forward, launched kernel by kernel, and by graphs up to so many tokens; and what serves it."""

    forward: Forward
    graphed: Forward
    largest_graph: int
    about: dict[str, Any]


def random_esm2(shape: Esm2Config) -> esm.ESM2:
    """fair-esm's model with random weights that fp16 holds exactly, always the same."""
    torch.manual_seed(7)
    with torch.device("cuda"):
        model = esm.ESM2(shape.layers, shape.dim, shape.heads).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
    return model


def ours(shape: Esm2Config, precision: str, kernels: str) -> Own:
    """This project's packed forward, launched kernel by kernel, and by CUDA graphs where they can be recorded."""
    dtype, fp8 = PRECISIONS[precision].dtype, PRECISIONS[precision].fp8
    model = ESM2WithFlashAttention(random_esm2(shape), fp8=fp8, kernels=kernels).to(dtype)
    model.release_standard_path()
    graphed = copy.copy(model)  # shares the weights
    sizes = graphed.record_graphs()

    def forward_of(model: ESM2WithFlashAttention) -> Forward:
        def prepared(proteins: Proteins) -> Callable[[], Tensor]:
            together = pack(proteins)
            layout = PackedLayout.build(together.cu_seqlens, len(together.ids), "cuda")
            ids = torch.from_numpy(together.ids).cuda()

            def forward() -> Tensor:
                result = model.forward_packed(ids, layout, together.max_seqlen)
                return result["representations"][shape.layers]

            return forward

        return prepared

    choice, served = model.choice(model.device, dtype), model.kernels(model.device, dtype)
    about = {
        "attention_backend": choice.backend.name if choice else None,
        "kernels": served.name,
        "refusals": served.refusals,
        "cuda_graphs": list(sizes),
    }
    return Own(forward_of(model), forward_of(graphed), max(sizes, default=0), about)


def faesm(shape: Esm2Config, precision: str) -> Peer:
    """FAESM with the same weights; it pads and unpads inside."""
    name = f"FAESM {precision}"
    try:
        from faesm.esm import FAEsmModel
        from transformers import EsmConfig
    except ImportError as error:
        return Peer(name, None, str(error))
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=shape.dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.dim,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=1026,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
    )
    config.use_fa = True
    with torch.device("cuda"):
        model = FAEsmModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    model.load_state_dict(_hugging_face_names(random_esm2(shape).state_dict(), shape.layers), strict=False)
    model = model.to(PRECISIONS[precision].dtype)

    def prepared(proteins: Proteins) -> Callable[[], Tensor]:
        tokens = torch.full((len(proteins), max(map(len, proteins))), 1)
        for row, protein in enumerate(proteins):
            tokens[row, : len(protein)] = torch.from_numpy(protein)
        tokens = tokens.cuda()
        mask = tokens.ne(1)

        def forward() -> Tensor:
            rows: Tensor = model(tokens, attention_mask=mask)[0]
            return rows

        return lambda: forward()[mask]

    return Peer(name, prepared)


def _hugging_face_names(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    names = {
        "self_attn.q_proj": "attention.self.query",
        "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value",
        "self_attn.out_proj": "attention.output.dense",
        "self_attn_layer_norm": "attention.LayerNorm",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "final_layer_norm": "LayerNorm",
    }
    weights = {"embeddings.word_embeddings.weight": state["embed_tokens.weight"]}
    for kind in ("weight", "bias"):
        weights[f"encoder.emb_layer_norm_after.{kind}"] = state[f"emb_layer_norm_after.{kind}"]
        for layer in range(layers):
            for ours_, theirs in names.items():
                weights[f"encoder.layer.{layer}.{theirs}.{kind}"] = state[f"layers.{layer}.{ours_}.{kind}"]
    return weights


def published_v2(shape: Esm2Config) -> Peer:
    """The packed forward of the published VirNucPro v2, in fp16."""
    try:
        from virnucpro.models.esm2_flash import ESM2WithFlashAttention as Published
    except ImportError as error:
        return Peer(PUBLISHED, None, str(error))
    model = Published(random_esm2(shape).half(), torch.device("cuda"), enable_fp16=True)

    def prepared(proteins: Proteins) -> Callable[[], Tensor]:
        together = pack(proteins)
        ids = torch.from_numpy(together.ids).long().cuda()
        bounds = torch.from_numpy(together.cu_seqlens).cuda()

        def forward() -> Tensor:
            result = model.forward_packed(ids, bounds, together.max_seqlen, repr_layers=[shape.layers])
            rows: Tensor = result["representations"][shape.layers]
            return rows

        return forward

    return Peer(PUBLISHED, prepared)


def fair_esm(shape: Esm2Config, precision: str) -> Forward:
    """fair-esm's own forward on padded batches, sorted by length; its rows in the proteins' order."""
    model = random_esm2(shape).to(PRECISIONS[precision].dtype)

    def prepared(proteins: Proteins) -> Callable[[], Tensor]:
        batches = padded_batches(proteins, max(4096, sum(map(len, proteins))), "cuda")
        masks = [batch.ne(1) for batch in batches]
        starts = pack(proteins).cu_seqlens
        order = np.argsort([len(protein) for protein in proteins], kind="stable")
        places = np.concatenate([np.arange(starts[each], starts[each + 1]) for each in order])
        where = torch.from_numpy(np.argsort(places)).cuda()

        def forward() -> Tensor:
            rows = [
                model(batch, repr_layers=[shape.layers])["representations"][shape.layers][mask]
                for batch, mask in zip(batches, masks, strict=True)
            ]
            return torch.cat(rows)[where]

        return forward

    return prepared


def matrix_products(shape: Esm2Config, precision: str, tokens: int) -> tuple[Callable[[], None], int]:
    """The four products of some layers, with bias, and their floating-point operations."""
    dtype, dim = PRECISIONS[precision].dtype, shape.dim
    sizes = ((dim, 3 * dim), (dim, dim), (dim, 4 * dim), (4 * dim, dim))
    layers = [
        [
            (
                torch.randn(out, into, device="cuda").mul_(into**-0.5).to(dtype),
                torch.randn(out, device="cuda").to(dtype),
            )
            for into, out in sizes
        ]
        for _ in range(_LAYERS_OF_WEIGHTS)
    ]
    inputs = {dim: torch.randn(tokens, dim, device="cuda").to(dtype)}
    inputs[4 * dim] = F.gelu(torch.randn(tokens, 4 * dim, device="cuda")).to(dtype)

    times = max(1, shape.layers // _LAYERS_OF_WEIGHTS)

    def run() -> None:
        for _ in range(times):
            for layer in layers:
                for (into, _), (weight, bias) in zip(sizes, layer, strict=True):
                    F.linear(inputs[into], weight, bias)

    return run, replace(shape, layers=times * _LAYERS_OF_WEIGHTS).flops_per_token * tokens


def pooled(rows: Tensor, proteins: Proteins) -> Tensor:
    """float32 [proteins, dim], on the GPU."""
    bounds = pack(proteins).cu_seqlens
    return mean_of_residues(rows, PackedLayout.build(bounds, len(rows), "cuda", min_rows=0))


def reference(shape: Esm2Config, proteins: Proteins) -> Tensor:
    """fair-esm's own fp32 forward one protein at a time, pooled."""
    model = random_esm2(shape)
    rows = [
        model(torch.from_numpy(protein)[None].long().cuda(), repr_layers=[shape.layers])["representations"][
            shape.layers
        ][0]
        for protein in proteins
    ]
    return pooled(torch.cat(rows), proteins)
