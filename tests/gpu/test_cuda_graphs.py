"""CUDA graphs of both encoders: the bits of the eager forward, for every recorded number of rows.

python -m pytest tests/gpu/test_cuda_graphs.py -rP
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.gpu.test_gpu_numerics import (
    PUBLISHED_DNABERT_S,
    assert_never_waits,
    new_model,
    run,
    shapes,
    tame_dnabert_s,
)
from tests.support.models_fixture import (
    by_segment,
    packed,
    random_bundle,
    random_dna,
    random_frames,
    random_proteins,
)
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.bundle.manifest import DnabertSConfig
from virnucpro_core.models.dnabert_s import DnabertS
from virnucpro_core.models.engine import Engine
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.graphs import ForwardGraphs
from virnucpro_core.models.kernels.choice import LONGEST_FUSED, triton_refusal
from virnucpro_core.models.precision import PRECISIONS


def refused() -> str | None:
    return triton_refusal(torch.device("cuda", 0)) if torch.cuda.is_available() else "no CUDA device"


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(refused() is not None, reason=f"Triton: {refused()}"),
    pytest.mark.timeout(600),
]
precisions = pytest.mark.parametrize("precision", ["fp16", "bf16", "fp8", "fp8-ffn"])
LENGTHS = (168, 3, 60, 33, LONGEST_FUSED, 32, 120, 5, 64, 97)
NANO_DNABERT_S = DnabertSConfig(layers=2, dim=192, heads=6, intermediate=384, vocab=89)


@cache
def model(shape: str, precision: str) -> ESM2WithFlashAttention:
    """With its graphs recorded."""
    chosen = PRECISIONS[precision]
    if reason := chosen.refusal(torch.device("cuda", 0), 1280):
        pytest.skip(reason)
    torch.cuda.empty_cache()
    made = ESM2WithFlashAttention(new_model(shape), fp8=chosen.fp8).to(chosen.dtype)
    made.release_standard_path()
    assert made.record_graphs()
    return made


def eager(chosen: ESM2WithFlashAttention, proteins: list[NDArray[np.int32]]) -> list[Tensor]:
    graphs, chosen._graphs = chosen._graphs, None
    try:
        return run(chosen, proteins)
    finally:
        chosen._graphs = graphs


def proteins_of(rows: int, seed: int) -> list[NDArray[np.int32]]:
    """Proteins with masks that fill `rows` exactly, those of a few lengths first."""
    rng = np.random.default_rng(seed)
    lengths: list[int] = []
    while (left := rows - sum(lengths)) > 0:
        length = int(rng.integers(40, 190))
        lengths.append(left if left < 2 * 190 else length)
    return random_proteins(lengths, seed, masks=True)


def count_replays(graphs: ForwardGraphs | None) -> list[int]:
    """The rows of each graph that serves from now on."""
    used: list[int] = []
    assert graphs is not None
    for each in graphs._recorded:
        replay, rows = each.replay, each.batch.rows

        def counting(replay=replay, rows=rows) -> None:  # type: ignore[no-untyped-def]
            used.append(rows)
            replay()

        object.__setattr__(each, "replay", counting)
    return used


@precisions
@shapes
def test_every_graph_gives_the_bits_of_the_eager_forward(shape: str, precision: str) -> None:
    chosen = model(shape, precision)
    assert chosen._graphs is not None
    sizes = chosen._graphs.sizes
    for seed, rows in enumerate(
        [*sizes, *reversed(sizes)]
    ):  # each replayed after larger and after smaller ones
        for tokens in (rows, rows - 100):
            proteins = proteins_of(tokens, seed)
            got, expected = run(chosen, proteins), eager(chosen, proteins)
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True)), (rows, tokens)


def test_each_batch_takes_the_smallest_graph_that_it_fits() -> None:
    chosen = ESM2WithFlashAttention(new_model("8M")).half()
    sizes = chosen.record_graphs()
    used = count_replays(chosen._graphs)
    for rows in sizes:
        run(chosen, proteins_of(rows, rows))
        run(chosen, proteins_of(rows - 1, rows))
    assert used == [rows for rows in sizes for _ in (0, 1)]
    used.clear()
    run(chosen, random_proteins([LONGEST_FUSED + 1, 30]))
    run(chosen, proteins_of(sizes[-1] + 1, 0))
    run(chosen, random_proteins([3] * (sizes[-1] // 3)))  # more segments than any graph has room for
    with torch.inference_mode():
        chosen.forward_packed(*packed(proteins_of(256, 0)), repr_layers=[0, 6])
    assert used == []


@precisions
@shapes
def test_bits_do_not_depend_on_neighbours_place_or_size_of_the_batch(shape: str, precision: str) -> None:
    chosen = model(shape, precision)
    few = random_proteins(LENGTHS)
    alone = [run(chosen, [protein])[0] for protein in few]
    for tokens in (512, 1024, 2048, 4096, 16384, 32768):
        others = random_proteins([168] * (tokens // 168), seed=tokens)
        at = len(others) // 2
        mixed = [*others[:at], *few, *others[at:]]
        rows = run(chosen, mixed)[at : at + len(few)]
        assert all(torch.equal(got, expected) for got, expected in zip(rows, alone, strict=True)), tokens


@shapes
def test_a_neighbour_with_nan_poisons_no_other(shape: str) -> None:
    """What a larger batch left in the padding rows of a graph is of no effect either."""
    chosen = model(shape, "fp16")
    proteins = proteins_of(700, 1)
    expected = run(chosen, proteins)
    weight = chosen.model.embed_tokens.weight
    kept = weight[3].clone()
    try:
        with torch.no_grad():
            weight[3] = torch.nan  # <unk>
        spoilt = random_proteins([200] * 5)
        for protein in spoilt:
            protein[5] = 3
        assert all(rows.isnan().all() for rows in run(chosen, spoilt))
        assert all(torch.equal(a, b) for a, b in zip(run(chosen, proteins), expected, strict=True))
    finally:
        with torch.no_grad():
            weight[3] = kept


@shapes
def test_a_replay_never_waits_for_the_device(shape: str) -> None:
    chosen = model(shape, "fp16")
    assert_never_waits(chosen, random_proteins(LENGTHS, masks=True))


def test_batches_enqueued_one_after_another_keep_their_own_results() -> None:
    chosen = model("8M", "fp16")
    every = [proteins_of(1000 + seed, seed) for seed in range(20)]
    expected = [eager(chosen, proteins) for proteins in every]
    got = [run(chosen, proteins) for proteins in every]  # nothing is read in between
    for ours, theirs in zip(got, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_recording_goes_on_while_another_thread_uses_the_device() -> None:
    stop, beaten = threading.Event(), []

    def work() -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            while not stop.is_set():
                x = torch.ones(1000).pin_memory()
                beaten.append(float(x.to("cuda", non_blocking=True).sum().cpu()))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        chosen = ESM2WithFlashAttention(new_model("8M")).half()
        chosen.record_graphs()
    finally:
        stop.set()
        thread.join(60)
    assert len(beaten) > 3
    assert set(beaten) == {1000.0}
    proteins = proteins_of(900, 4)
    assert all(torch.equal(a, b) for a, b in zip(run(chosen, proteins), eager(chosen, proteins), strict=True))


def test_moving_or_casting_gives_up_the_graphs() -> None:
    chosen = ESM2WithFlashAttention(new_model("8M")).half()
    chosen.record_graphs()
    assert chosen.bfloat16()._graphs is None
    assert run(chosen, proteins_of(300, 0))[0].dtype == torch.bfloat16


@pytest.mark.parametrize("shape", ["8M", "3B"])
def test_the_memory_of_all_graphs_is_little_more_than_that_of_the_largest(shape: str) -> None:
    chosen = ESM2WithFlashAttention(new_model(shape)).half()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    sizes = chosen.record_graphs()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    taken = before - torch.cuda.mem_get_info()[0]
    # The widest step of the largest: the stream in fp32, the feed-forward in 16 bits and what is alive beside it.
    largest = sizes[-1] * chosen.dim * 32
    outputs = sum(sizes) * chosen.dim * 2
    print(
        f"{shape}: {len(sizes)} graphs, {taken / 1e6:.0f} MB; largest {largest / 1e6:.0f}, outputs {outputs / 1e6:.0f}"
    )
    assert taken < 1.5 * largest + 2 * outputs + 400e6


@pytest.mark.parametrize("config", [PUBLISHED_DNABERT_S, NANO_DNABERT_S], ids=["published", "nano"])
def test_every_graph_of_dnabert_s_gives_the_bits_of_the_eager_forward(config: DnabertSConfig) -> None:
    chosen = DnabertS(config).eval().requires_grad_(False)
    chosen.load_state_dict(tame_dnabert_s(config).state_dict())
    chosen.to("cuda", torch.float16)
    sizes = chosen.record_graphs()
    if not sizes:
        pytest.skip("flash-attn does not serve")
    graphs = chosen._graphs

    def rows_of(sequences: list[NDArray[np.int32]], by: ForwardGraphs | None) -> list[Tensor]:
        chosen._graphs = by
        with torch.inference_mode():
            return by_segment(chosen.forward_packed(*packed(sequences)), sequences)

    for seed, rows in enumerate([*sizes, *reversed(sizes)]):
        lengths = [len(each) for each in proteins_of(rows - seed, seed)]
        sequences = random_dna(lengths, seed, vocabulary=config.vocab)
        got, expected = rows_of(sequences, graphs), rows_of(sequences, None)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True)), rows


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_an_engines_scores_are_the_same_bits_with_and_without(precision: str, tmp_path: Path) -> None:
    if reason := PRECISIONS[precision].refusal(torch.device("cuda", 0), 96):
        pytest.skip(reason)
    bundle = random_bundle(tmp_path / "bundle")
    with_graphs = Engine(bundle, "cuda", precision, cuda_graphs=True)
    without = Engine(bundle, "cuda", precision)
    print(with_graphs.info.graphs)
    assert with_graphs.info.graphs is not None
    assert with_graphs.info.graphs.esm2[-1] == 16384
    assert without.info.graphs is None
    for count in (1, 7, 120, 400):
        frames = random_frames(count)
        np.testing.assert_array_equal(with_graphs.features(frames), without.features(frames))
        np.testing.assert_array_equal(with_graphs.score(frames), without.score(frames))


def test_nano_is_recorded_in_seconds() -> None:
    engine = Engine(Bundle.load(find_bundle("nano")), "cuda", cuda_graphs=True)
    print(engine.info.graphs)
    assert engine.info.graphs is not None
    assert engine.info.graphs.seconds < 30
