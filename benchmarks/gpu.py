"""ESM-2's packed forward against its peers on this GPU, in one run: `make bench-gpu`.

    python -m benchmarks.gpu [--shape 8M|650M|3B ...] [--precision NAME ...] [--tokens N] [--rounds N] [--folder DIR]

Weights are random (speed does not depend on them), proteins too: once all of 166 residues (U500), as 500-base
chunks give them, and once of 20 to 166 (MIX). All methods (benchmarks/peers.py) alternate, round by round, so that they
run on the same machine; the median round counts. What could not run is listed with the reason.

The GPU's own limit is measured in the same rounds: the layers' four matrix products with distinct weights, as many
tokens, nothing else. Small batches, at which launching decides, are measured for U500 alone.

The labels of the bundled model in each precision are compared with those in fp32, on the reads of a FASTA file
(`--reads`; a tenth of a second per 1,000 frames).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.forward import SHAPES, random_proteins, seconds
from benchmarks.kernel_times import kernel_times
from benchmarks.machine import NOT_RUN, RESULTS, about, save, spread
from benchmarks.peers import (
    Forward,
    Peer,
    faesm,
    fair_esm,
    matrix_products,
    ours,
    pooled,
    published_v2,
    reference,
)
from virnucpro_core.bundle.bundle import Bundle, find_bundle, read_manifest
from virnucpro_core.models.device import EngineError, Placement
from virnucpro_core.models.engine import Engine
from virnucpro_core.models.kernels.choice import TORCH, TRITON
from virnucpro_core.models.precision import PRECISIONS
from virnucpro_core.options import AUTO
from virnucpro_core.scoring.model import preparer
from virnucpro_core.scoring.packing import batches
from virnucpro_core.sequence.fasta import read_sequences
from virnucpro_core.sequence.prepare import PreparedFrame

SETS = {"U500": (166, 166), "MIX": (20, 166)}
SMALL = {"8M": (1024, 4096), "650M": (1024,), "3B": (512, 2048)}
"""Tokens of the small batches, by shape."""
SIXTEEN_BIT = ("fp16", "bf16")
PROFILED = (f"{TRITON} fp16", f"{TRITON} fp8")
_SHORTEST_S = 0.3
"""A timing repeats its work until it takes this long: the GPU then runs at the clock that it can hold."""
_FRAMES = 10_000
"""Frames of which the labels are compared."""


@dataclass(frozen=True)
class Contest:
    """The methods of one shape, with their weights on the GPU."""

    shape: str
    forwards: dict[str, Forward]
    graphs: dict[str, tuple[Forward, int]]
    """By CUDA graphs, up to so many tokens."""
    served: dict[str, Any]
    not_run: dict[str, str]

    @classmethod
    def of(cls, name: str, precisions: Sequence[str]) -> Contest:
        """Load them all."""
        shape = SHAPES[name]
        forwards: dict[str, Forward] = {}
        graphs: dict[str, tuple[Forward, int]] = {}
        served: dict[str, Any] = {}
        peers = [published_v2(shape)]
        for precision in precisions:
            for kernels in (TORCH, TRITON) if precision in SIXTEEN_BIT else (TRITON,):
                method = f"{kernels} {precision}"
                own = ours(shape, precision, kernels)
                forwards[method], served[method] = own.forward, own.about
                if own.largest_graph:
                    graphs[f"graph {precision}"] = (own.graphed, own.largest_graph)
            if precision in SIXTEEN_BIT:
                peers.append(faesm(shape, precision))
        peers += [Peer(f"fair-esm {each}", fair_esm(shape, each)) for each in ("fp16", "fp32")]
        forwards |= {peer.name: peer.forward for peer in peers if peer.forward is not None}
        not_run = {peer.name: peer.reason for peer in peers if peer.forward is None}
        return cls(name, forwards, graphs, served, not_run)

    def accuracy(self, tokens: int = 2048) -> dict[str, dict[str, float]]:
        """How far the pooled vectors of each method lie from fair-esm's in fp32: lowest cosine, largest distance."""
        proteins = random_proteins(*SETS["MIX"], tokens)
        expected = reference(SHAPES[self.shape], proteins).double()
        found = {}
        for method, forward in self.forwards.items():
            got = pooled(forward(proteins)(), proteins).double()
            distance = ((got - expected).norm(dim=1) / expected.norm(dim=1)).max().item()
            found[method] = {
                "cosine": round(F.cosine_similarity(got, expected).min().item(), 9),
                "rel_l2": float(f"{distance:.3g}"),
            }
        return found

    def at(self, tokens: int) -> dict[str, Forward]:
        """The methods for batches of so many tokens: those by graphs, too, where one is large enough."""
        graphs = {method: forward for method, (forward, largest) in self.graphs.items() if tokens <= largest}
        return self.forwards | graphs


def alternated(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work, once a round; each round begins with another one."""
    times: dict[str, list[float]] = {name: [] for name in work}
    repeats = {}
    for name, run in work.items():
        seconds(run, "cuda")  # the first run is warming up
        repeats[name] = math.ceil(_SHORTEST_S / seconds(run, "cuda"))
    for number in range(rounds):
        order = list(work)
        first = number % len(order)
        for name in order[first:] + order[:first]:
            times[name].append(seconds(repeated(work[name], repeats[name]), "cuda") / repeats[name])
    return times


def repeated(work: Callable[[], object], times: int) -> Callable[[], None]:
    """`work` as often as that."""

    def run() -> None:
        for _ in range(times):
            work()

    return run


def _row(tokens: int, times: Sequence[float]) -> dict[str, Any]:
    middle = statistics.median(times)
    return {
        "tokens_per_s": round(tokens / middle),
        "ms": float(f"{middle * 1000:.4g}"),
        "spread": round(spread(times), 4),
    }


def measure(name: str, precisions: Sequence[str], tokens: int, rounds: int) -> Iterator[dict[str, Any]]:
    """All methods of one shape: large batches of both kinds with the products alone, and small batches. What there is
    is given after each of these."""
    shape = SHAPES[name]
    contest = Contest.of(name, precisions)
    # Graphs compute the same bits.
    accuracy = contest.accuracy()
    accuracy |= {method: accuracy[f"{TRITON} {method.split()[1]}"] for method in contest.graphs}
    result: dict[str, Any] = {
        "shape": name,
        "served": contest.served,
        NOT_RUN: contest.not_run,
        "small": {},
    }
    limits = {
        precision: matrix_products(shape, precision, tokens)
        for precision in precisions
        if precision in SIXTEEN_BIT
    }
    for label, residues in SETS.items():
        proteins = random_proteins(*residues, tokens)
        total = sum(map(len, proteins))
        forwards = contest.at(tokens)
        work: dict[str, Callable[[], object]] = {
            method: forward(proteins) for method, forward in forwards.items()
        }
        work |= {f"products {precision}": run for precision, (run, _) in limits.items()}
        times = alternated(work, rounds)
        rates = {
            precision: flops / statistics.median(times[f"products {precision}"])
            for precision, (_, flops) in limits.items()
        }
        rows = {method: _row(total, times[method]) | accuracy[method] for method in forwards}
        for method, row in rows.items():
            precision = method.rsplit(" ", 1)[1]
            if precision in rates:
                row["share_of_products"] = round(
                    row["tokens_per_s"] * shape.flops_per_token / rates[precision], 4
                )
        result[label] = {
            "methods": rows,
            "profile": {
                method: kernel_times(work[method])
                for method in PROFILED
                if method in work and label == "U500"
            },
            "products_tflops": {precision: round(rate / 1e12, 1) for precision, rate in rates.items()},
        }
        _print(f"{name} {label}", result[label])
        yield result
    for few in SMALL.get(name, ()):
        proteins = random_proteins(*SETS["U500"], few)
        total = sum(map(len, proteins))
        times = alternated({method: forward(proteins) for method, forward in contest.at(few).items()}, rounds)
        result["small"][str(few)] = {"methods": {method: _row(total, each) for method, each in times.items()}}
        _print(f"{name} U500, {few} tokens", result["small"][str(few)])
        yield result


def _print(label: str, figures: Mapping[str, Any]) -> None:
    print(f"\n{label}; matrix products alone, TFLOP/s: {figures.get('products_tflops', '-')}")
    for method, row in figures["methods"].items():
        share = f", {row['share_of_products']:.3f} of the products" if "share_of_products" in row else ""
        cosine = f", cosine {row['cosine']}" if "cosine" in row else ""
        print(
            f"  {method:20} {row['tokens_per_s']:9,} tokens/s, {row['ms']:8.2f} ms{share}{cosine}, "
            f"spread {row['spread']:.1%}",
            flush=True,
        )


def labels(path: Path, precisions: Sequence[str], frames: int = _FRAMES) -> dict[str, Any]:
    """Of the bundled model on real reads: how many labels are those of fp32, and the largest score difference."""
    bundle = Bundle.load(find_bundle("nano"))

    def scores(precision: str, chosen: Sequence[PreparedFrame]) -> np.ndarray:
        engine = Engine(bundle, "cuda", precision)
        parts = [engine.score(batch) for batch in batches(chosen, engine.default_token_budget)]
        return np.concatenate(parts)

    prepare = preparer(Engine(bundle, "cpu", self_test=False))
    chosen: list[PreparedFrame] = []
    for record_id, _, letters in read_sequences(str(path)):
        chosen += prepare(record_id, letters).frames
        if len(chosen) >= frames:
            break
    expected = scores("fp32", chosen)
    found = {}
    for precision in precisions:
        got = scores(precision, chosen)
        found[precision] = {
            "equal": round(float((got.argmax(1) == expected.argmax(1)).mean()), 6),
            "largest_difference": float(f"{np.abs(got - expected).max():.3g}"),
        }
        print(f"labels of {len(chosen)} frames as in fp32, {precision}: {found[precision]}", flush=True)
    return {"frames": len(chosen), "reads": path.name, "precisions": found}


def precisions_here() -> tuple[list[str], dict[str, str]]:
    """Those that this GPU can serve, without fp32; and the others, with the reason."""
    manifest, _ = read_manifest(find_bundle("nano"))
    serving, refused = [], {}
    for name in PRECISIONS:
        try:
            Placement.resolve("cuda", name, AUTO, manifest)
        except EngineError as error:
            refused[name] = str(error)
        else:
            serving.append(name)
    return [name for name in serving if name != "fp32"], refused


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, nargs="*", default=["3B", "650M", "8M"])
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", help="[default: all but fp32]")
    parser.add_argument("--tokens", type=int, default=16384, help="of a large batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reads", type=Path, help="FASTA of real reads, for the labels")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where gpu.json is written")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device: torch sees none")
    precisions, refused = precisions_here()
    precisions = options.precision or precisions
    result: dict[str, Any] = {
        "about": about(("flash_attn", "faesm", "transformers")),
        "tokens": options.tokens,
        "rounds": options.rounds,
        NOT_RUN: refused,
        "shapes": [],
    }
    with torch.inference_mode():
        if options.reads is not None:
            result["labels"] = labels(options.reads, precisions)
        for shape in options.shape:
            before = result["shapes"]
            for measured in measure(shape, precisions, options.tokens, options.rounds):
                result["shapes"] = [*before, measured]
                save("gpu", result, options.folder)  # what follows may be cut off
            torch.cuda.empty_cache()
    save("gpu", result, options.folder)


if __name__ == "__main__":
    main()
