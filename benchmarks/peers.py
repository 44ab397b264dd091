"""ESM-2's packed forward with Triton's kernels against plain torch and against peers, on this GPU, in one run.

    python -m benchmarks.peers [--shape 650M|3B ...] [--precision fp16|bf16 ...] [--tokens N] [--rounds N]
                                 [--json FILE]

Weights are random (speed does not depend on them), proteins too: once all of 166 residues (U500), as 500-base
chunks give them, and once of 20 to 166 (MIX). All methods alternate, round by round, so that they run on the same
machine; the median round counts. Peers run where they can be imported: FAESM (package `faesm`) with flash-attn, and
the published VirNucPro v2 (package `virnucpro`), which is fp16. What could not run is listed with the reason.

The GPU's own limit is measured in the same rounds: the layers' four matrix products with distinct weights, as many
tokens, nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import esm
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.forward import SHAPES, Proteins, random_proteins, seconds
from virnucpro_core.bundle.manifest import Esm2Config
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.kernels.choice import TORCH, TRITON
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.pooling import mean_of_residues
from virnucpro_core.models.precision import PRECISIONS
from virnucpro_core.scoring.packing import pack

PUBLISHED = "published v2 fp16"
SETS = {"U500": (166, 166), "MIX": (20, 166)}
_SHORTEST_S = 0.4
"""A timing repeats its work until it takes this long: the GPU then runs at the clock that it can hold."""
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


def random_esm2(shape: Esm2Config) -> esm.ESM2:
    """fair-esm's model with random weights that fp16 holds exactly, always the same."""
    torch.manual_seed(7)
    with torch.device("cuda"):
        model = esm.ESM2(shape.layers, shape.dim, shape.heads).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
    return model


def ours(shape: Esm2Config, precision: str, kernels: str) -> tuple[Forward, dict[str, Any]]:
    """This project's packed forward, and what serves it."""
    dtype = PRECISIONS[precision].dtype
    model = ESM2WithFlashAttention(random_esm2(shape), kernels=kernels).to(dtype)

    def prepared(proteins: Proteins) -> Callable[[], Tensor]:
        together = pack(proteins)
        layout = PackedLayout.build(together.cu_seqlens, len(together.ids), "cuda")
        ids = torch.from_numpy(together.ids).cuda()
        return lambda: model.forward_packed(ids, layout, together.max_seqlen)["representations"][shape.layers]

    choice = model.choice(model.device, dtype)
    return prepared, {
        "attention_backend": choice.backend.name if choice else None,
        "kernels": model.kernels(model.device, dtype).name,
        "refusals": model.kernels(model.device, dtype).refusals,
    }


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

    def run() -> None:
        for _ in range(max(1, shape.layers // _LAYERS_OF_WEIGHTS)):
            for layer in layers:
                for (into, _), (weight, bias) in zip(sizes, layer, strict=True):
                    F.linear(inputs[into], weight, bias)

    count = max(1, shape.layers // _LAYERS_OF_WEIGHTS) * _LAYERS_OF_WEIGHTS
    return run, 24 * dim * dim * tokens * count


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


def repeated(work: Callable[[], object], times: int) -> Callable[[], None]:
    """`work` as often as that."""

    def run() -> None:
        for _ in range(times):
            work()

    return run


def spread(times: list[float]) -> float:
    """(longest - shortest) / median."""
    return (max(times) - min(times)) / statistics.median(times)


def measure(name: str, precisions: list[str], tokens: int, rounds: int) -> dict[str, Any]:
    """All methods of one shape."""
    shape = SHAPES[name]
    checked = random_proteins(*SETS["MIX"], 2048)
    expected = reference(shape, checked).double()
    forwards: dict[str, Forward] = {}
    served: dict[str, Any] = {}
    limits = {}
    peers = [published_v2(shape)]
    for precision in precisions:
        for kernels in (TORCH, TRITON):
            forwards[f"{kernels} {precision}"], served[f"{kernels} {precision}"] = ours(
                shape, precision, kernels
            )
        limits[precision] = matrix_products(shape, precision, tokens)
        peers.append(faesm(shape, precision))
    forwards |= {peer.name: peer.forward for peer in peers if peer.forward is not None}
    result: dict[str, Any] = {
        "shape": name,
        "served": served,
        "not run": {peer.name: peer.reason for peer in peers if peer.forward is None},
    }
    accuracy = {}
    for method, forward in forwards.items():
        got = pooled(forward(checked)(), checked).double()
        cosine = F.cosine_similarity(got, expected).min().item()
        distance = ((got - expected).norm(dim=1) / expected.norm(dim=1)).max().item()
        accuracy[method] = {"cosine": round(cosine, 9), "rel_l2": float(f"{distance:.3g}")}
    for label, residues in SETS.items():
        proteins = random_proteins(*residues, tokens)
        total = sum(map(len, proteins))
        work: dict[str, Callable[[], object]] = {
            method: forward(proteins) for method, forward in forwards.items()
        }
        work |= {f"products {precision}": run for precision, (run, _) in limits.items()}
        times: dict[str, list[float]] = {method: [] for method in work}
        repeats = {}
        for method, run in work.items():
            seconds(run, "cuda")  # the first run is warming up
            repeats[method] = math.ceil(_SHORTEST_S / seconds(run, "cuda"))
        for number in range(rounds):
            order = list(work)
            for method in order[number % len(order) :] + order[: number % len(order)]:
                times[method].append(
                    seconds(repeated(work[method], repeats[method]), "cuda") / repeats[method]
                )
        rates = {
            precision: flops / statistics.median(times[f"products {precision}"])
            for precision, (_, flops) in limits.items()
        }
        per_token = 24 * shape.dim * shape.dim * shape.layers
        rows: dict[str, dict[str, Any]] = {}
        for method in forwards:
            rate = total / statistics.median(times[method])
            precision = method.rsplit(" ", 1)[1]
            rows[method] = {
                "tokens_per_s": round(rate),
                "spread": round(spread(times[method]), 4),
                "share_of_products": round(rate * per_token / rates[precision], 4)
                if precision in rates
                else None,
                **accuracy[method],
            }
        result[label] = {
            "methods": rows,
            "products_tflops": {precision: round(rate / 1e12, 1) for precision, rate in rates.items()},
            "ratios": {
                f"triton {precision}": {
                    other: round(rows[f"triton {precision}"]["tokens_per_s"] / row["tokens_per_s"], 3)
                    for other, row in rows.items()
                    if other != f"triton {precision}" and (precision in other or other == PUBLISHED)
                }
                for precision in precisions
            },
        }
        _print(name, label, result[label])
    return result


def _print(shape: str, label: str, figures: dict[str, Any]) -> None:
    print(f"\n{shape} {label}; matrix products alone, TFLOP/s: {figures['products_tflops']}")
    for method, row in figures["methods"].items():
        share = (
            "" if row["share_of_products"] is None else f", {row['share_of_products']:.3f} of the products"
        )
        print(
            f"  {method:20} {row['tokens_per_s']:9,} tokens/s{share}, cosine {row['cosine']}, "
            f"spread {row['spread']:.1%}"
        )
    for method, ratios in figures["ratios"].items():
        print(
            f"  {method} / " + ", ".join(f"{other}: {ratio}" for other, ratio in ratios.items()), flush=True
        )


def versions() -> dict[str, str]:
    """What was measured, on what."""
    from importlib.metadata import PackageNotFoundError, version

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("torch", "triton", "flash_attn", "faesm", "transformers", "fair-esm", "numpy")
    return {"gpu": torch.cuda.get_device_name(), **{package: of(package) for package in packages}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=["650M", "3B"])
    parser.add_argument("--precision", choices=["fp16", "bf16"], nargs="+", default=["fp16", "bf16"])
    parser.add_argument("--tokens", type=int, default=16384, help="of a batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device: torch sees none")
    results = []
    with torch.inference_mode():
        for shape in options.shape:
            results.append(measure(shape, options.precision, options.tokens, options.rounds))
            torch.cuda.empty_cache()
    if options.json:
        about = {"tokens": options.tokens, "rounds": options.rounds, "versions": versions()}
        options.json.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
