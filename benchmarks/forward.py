"""ESM-2's packed forward against fair-esm's own padded forward, on this machine, in one run.

    python -m benchmarks.forward [--shape nano|8M|650M|3B] [--precision fp32|fp16|bf16] [--tokens N] [--rounds N]

Weights are random (speed does not depend on them), proteins too: once all of 166 residues, as 500-base chunks give
them, and once of 22 to 166, as shorter chunks do. The two alternate round by round, so that both run on the same
machine; the median round counts. fair-esm gets the same proteins in batches of as many tokens, padding included,
sorted by length, which suits it best.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import esm
import numpy as np
import torch

from virnucpro_core.bundle.bundle import find_bundle, read_manifest
from virnucpro_core.bundle.manifest import Esm2Config
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.precision import PRECISIONS
from virnucpro_core.scoring.packing import pack

SHAPES = {
    "nano": read_manifest(find_bundle("nano"))[0].esm2,
    "8M": Esm2Config(6, 320, 20),
    "650M": Esm2Config(33, 1280, 20),
    "3B": Esm2Config(36, 2560, 40),
}
Proteins = list[np.ndarray]


def random_proteins(shortest: int, longest: int, tokens: int) -> Proteins:
    """Token ids of proteins of the given numbers of residues, at most `tokens` tokens together."""
    rng = np.random.default_rng(1)
    proteins: Proteins = []
    while True:
        residues = rng.integers(4, 24, rng.integers(shortest, longest + 1))
        if sum(map(len, proteins)) + len(residues) + 2 > tokens:
            return proteins
        proteins.append(np.concatenate([[0], residues, [2]]).astype(np.int32))


def padded_batches(
    proteins: Proteins, tokens: int, device: str, by_length: bool = True
) -> list[torch.Tensor]:
    """int64 [proteins, longest] each, sorted by length or in their order, at most `tokens` places with the padding."""
    batches: list[torch.Tensor] = []
    group: Proteins = []
    longest = 0
    for protein in [*(sorted(proteins, key=len) if by_length else proteins), None]:
        wider = max(longest, 0 if protein is None else len(protein))
        if protein is None or (group and (len(group) + 1) * wider > tokens):
            batch = torch.full((len(group), longest), 1)
            for row, ids in enumerate(group):
                batch[row, : len(ids)] = torch.from_numpy(ids)
            batches.append(batch.to(device))
            group, longest = [], 0
        if protein is not None:
            group.append(protein)
            longest = max(longest, len(protein))
    return batches


def seconds(work: Callable[[], object], device: str) -> float:
    """How long `work` takes, the device's part included."""
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def compare(
    model: ESM2WithFlashAttention, proteins: Proteins, tokens: int, rounds: int
) -> tuple[float, float]:
    """Seconds of the packed and of fair-esm's forward, medians."""
    device, last = model.device.type, model.num_layers
    together = pack(proteins)
    batches = padded_batches(proteins, tokens, device)

    def packed() -> None:
        layout = PackedLayout.build(together.cu_seqlens, len(together.ids), device)
        model.forward_packed(torch.from_numpy(together.ids), layout, together.max_seqlen)

    def padded() -> None:
        for batch in batches:
            model(batch, repr_layers=[last])

    times: dict[Callable[[], None], list[float]] = {packed: [], padded: []}
    with torch.inference_mode():
        for work in times:  # the first run of each is warming up
            work()
        for _ in range(rounds):
            for work, taken in times.items():
                taken.append(seconds(work, device))
    return statistics.median(times[packed]), statistics.median(times[padded])


def main() -> None:
    """Command line."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="3B" if gpu else "nano")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16" if gpu else "fp32")
    parser.add_argument("--tokens", type=int, default=16384 if gpu else 4096, help="of a batch")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    device = "cuda" if gpu else "cpu"
    shape = SHAPES[options.shape]
    torch.manual_seed(1)
    with torch.device(device):
        fair_esm = esm.ESM2(shape.layers, shape.dim, shape.heads).eval().requires_grad_(False)
    precision = PRECISIONS[options.precision]
    model = ESM2WithFlashAttention(fair_esm, fp8=precision.fp8).to(precision.dtype)
    model.record_graphs()
    choice = model.choice(model.device, PRECISIONS[options.precision].dtype)
    name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"ESM-2 {options.shape}, {options.precision}, {options.tokens} tokens a batch")
    print(f"torch {torch.__version__}, {name}")
    print(
        f"packed attention by {choice.backend.name if choice else 'fair-esm'}; medians of {options.rounds} rounds"
    )
    for shortest, longest in ((166, 166), (22, 166)):
        proteins = random_proteins(shortest, longest, options.tokens)
        total = sum(map(len, proteins))
        ours, theirs = compare(model, proteins, options.tokens, options.rounds)
        print(
            f"{shortest:3} to {longest} residues: packed {total / ours:9,.0f} tokens/s, "
            f"fair-esm padded {total / theirs:9,.0f} tokens/s, ratio {theirs / ours:.2f}"
        )


if __name__ == "__main__":
    main()
