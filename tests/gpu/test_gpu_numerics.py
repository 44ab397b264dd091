"""The models on a CUDA device: numbers, bits and synchronisations, for ESM-2's real shapes with random weights.

    python -m pytest tests/gpu -rP

Skipped without a CUDA device. Each comparison prints its figures, which -rP shows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import esm
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.models_fixture import (
    by_segment,
    layout_of,
    packed,
    random_bundle,
    random_dna,
    random_frames,
    random_proteins,
    relative_l2,
    shake,
)
from virnucpro_core.bundle.bundle import Bundle, bundled, find_bundle
from virnucpro_core.bundle.manifest import DnabertSConfig, Esm2Config
from virnucpro_core.models.attention import BACKENDS
from virnucpro_core.models.classifier import Head
from virnucpro_core.models.dnabert_s import DnabertS
from virnucpro_core.models.engine import Engine
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.layout import PADDED_TOKENS, WIDTH_STEP, PackedLayout
from virnucpro_core.models.pooling import frame_features, mean_of_residues, mean_of_tokens
from virnucpro_core.models.precision import PRECISIONS
from virnucpro_core.models.self_test import compare_with_fair_esm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.timeout(600),
]

SHAPES = {"8M": Esm2Config(6, 320, 20), "650M": Esm2Config(33, 1280, 20), "3B": Esm2Config(36, 2560, 40)}
PARAMETERS = {"8M": 8e6, "650M": 0.65e9, "3B": 2.84e9}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
POOLED_TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2}
"""Absolute. ESM-2 has to keep to it in fp32 alone; in 16 bits to fair-esm's own error."""
PUBLISHED_DNABERT_S = DnabertSConfig(layers=12, dim=768, heads=12, intermediate=3072, vocab=4096)
FP32_BITS = (
    "in fp32 cuBLAS takes other kernels, with other last bits, for other numbers of rows; not in 16 bits"
)
LENGTHS = (168, 3, 60, 168, 33, 500, 32, 120, 5, 168, 64, 97)

shapes = pytest.mark.parametrize("shape", SHAPES)
precisions = pytest.mark.parametrize("precision", DTYPES)
backends = pytest.mark.parametrize("backend", [backend.name for backend in BACKENDS])


@dataclass(frozen=True)
class Reference:
    """What fair-esm's own forward gives, one protein at a time; on the CPU."""

    proteins: list[NDArray[np.int32]]
    tokens: Tensor
    pooled: Tensor


def new_model(shape: str) -> esm.ESM2:
    """Random weights of that shape on the device, always the same; fp32 values that fp16 holds too.

    The published 3B checkpoint is stored in fp16, so casting it loses nothing; nor does it here.
    """
    config = SHAPES[shape]
    free, _ = torch.cuda.mem_get_info()
    if free < 6 * PARAMETERS[shape] + 4e9:
        pytest.skip(f"{shape} in fp32 needs more than the {free / 1e9:.0f} GB of GPU memory that are free")
    torch.manual_seed(7)
    with torch.device("cuda"):
        model = esm.ESM2(config.layers, config.dim, config.heads).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
    return model


@cache
def reference(shape: str) -> Reference:
    return original(shape, torch.float32)


def original(shape: str, dtype: torch.dtype) -> Reference:
    """fair-esm's own forward in one type: everything is cast, its rotary frequencies too."""
    model, last = new_model(shape).to(dtype), SHAPES[shape].layers
    proteins = random_proteins(LENGTHS)
    rows = []
    with torch.inference_mode():
        for protein in proteins:
            tokens = torch.from_numpy(protein)[None].long().cuda()
            rows.append(model(tokens, repr_layers=[last])["representations"][last][0].cpu())
    every = torch.cat(rows)
    return Reference(proteins, every, mean_of_residues(every.float(), layout_of(proteins)))


@cache
def pooled_limit(shape: str, precision: str) -> float:
    """How far pooled rows may be from fair-esm's fp32: in 16 bits as far as its own forward in that type is."""
    if precision == "fp32":
        return POOLED_TOLERANCE[precision]
    own = relative_l2(original(shape, DTYPES[precision]).pooled, reference(shape).pooled)
    print(f"{shape} {precision}: fair-esm's own pooled error {own:.2e}")
    assert own < 1, "fair-esm's own forward is not usable as a reference in this type"
    return own


_held: dict[tuple[str, str], ESM2WithFlashAttention] = {}


def wrapped(shape: str, precision: str, backend: str = "auto") -> ESM2WithFlashAttention:
    """The same weights, cast; one model is held at a time. Skips where the back-end cannot serve."""
    config = SHAPES[shape]
    if backend != "auto":
        chosen = next(each for each in BACKENDS if each.name == backend)
        reason = chosen.refusal(
            torch.device("cuda"), DTYPES[precision], config.dim // config.heads, alibi=False
        )
        if reason:
            pytest.skip(f"{backend}: {reason}")
    if (shape, precision) not in _held:
        _held.clear()
        torch.cuda.empty_cache()
        _held[shape, precision] = ESM2WithFlashAttention(new_model(shape)).to(DTYPES[precision])
    model = _held[shape, precision]
    model.backend_name = backend
    model._choices.clear()
    model._kernels.clear()
    return model


def run(model: ESM2WithFlashAttention, proteins: list[NDArray[np.int32]], v1: bool = False) -> list[Tensor]:
    with torch.inference_mode():
        rows = model.forward_packed(*packed(proteins), v1_compatible=v1)["representations"][model.num_layers]
    return by_segment(rows, proteins)


@contextmanager
def no_synchronisation() -> Iterator[None]:
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def assert_bits_are_its_own(model: ESM2WithFlashAttention, few: list[NDArray[np.int32]]) -> None:
    """Each protein's bits are those that it has alone, with other neighbours, places and sizes of the batch."""
    alone = [run(model, [protein])[0] for protein in few]
    for tokens in (512, 4096, 16384, 32768):
        others = random_proteins([168] * (tokens // 168), seed=tokens)
        at = len(others) // 2
        mixed = [*others[:at], *few, *others[at:]]
        rows = run(model, mixed)[at : at + len(few)]
        assert all(torch.equal(got, expected) for got, expected in zip(rows, alone, strict=True)), tokens
        order = np.random.default_rng(tokens).permutation(len(mixed))
        shuffled = run(model, [mixed[index] for index in order])
        back = dict(zip(order.tolist(), shuffled, strict=True))
        assert all(torch.equal(back[at + index], expected) for index, expected in enumerate(alone)), tokens


def assert_never_waits(model: ESM2WithFlashAttention, proteins: list[NDArray[np.int32]]) -> None:
    """Run the forward of proteins, from layout to pooled vectors, where waiting for the device is an error."""
    ids, bounds, longest = packed(proteins)

    def forward() -> Tensor:
        layout = PackedLayout.build(bounds, len(ids), "cuda")
        rows = model.forward_packed(ids, layout, longest)["representations"][model.num_layers]
        return mean_of_residues(rows, layout)

    with torch.inference_mode():
        expected = forward()
        with no_synchronisation():
            actual = forward()
    assert torch.equal(actual, expected)


def report(what: str, actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Print and return the largest relative L2 distance and the smallest cosine of a row."""
    distance = relative_l2(actual, expected)
    cosine = (
        torch.nn.functional.cosine_similarity(actual.double().cpu(), expected.double().cpu()).min().item()
    )
    print(f"{what}: rel-L2 {distance:.2e}, cosine {cosine:.8f}")
    return distance, cosine


@backends
@precisions
@shapes
def test_packed_is_fair_esms_fp32_forward(shape: str, precision: str, backend: str) -> None:
    expected = reference(shape)
    rows = torch.cat(run(wrapped(shape, precision, backend), expected.proteins))
    name = f"{shape} {precision} {backend}"
    per_token, _ = report(f"{name} per token", rows, expected.tokens)
    pooled, cosine = report(
        f"{name} pooled", mean_of_residues(rows.cpu(), layout_of(expected.proteins)), expected.pooled
    )
    assert pooled < pooled_limit(shape, precision)
    if precision == "fp32":
        assert per_token < 1e-5
    if precision == "fp16" and shape == "3B":
        assert cosine >= 0.999999


@backends
@precisions
@shapes
def test_the_self_test_passes(shape: str, precision: str, backend: str) -> None:
    result = compare_with_fair_esm(wrapped(shape, precision, backend), PRECISIONS[precision])
    print(f"{shape} {precision} {backend}: {result}")
    assert result.passed


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", bundled())
def test_a_bundled_model_passes_it(name: str, precision: str) -> None:
    """Its weights are trained: a token of theirs can lie further off than one of random weights."""
    bundle = Bundle.load(find_bundle(name))
    if reason := PRECISIONS[precision].refusal(torch.device("cuda", 0), bundle.manifest.esm2.dim):
        pytest.skip(reason)
    result = Engine(bundle, "cuda", precision).info.self_test
    print(f"{name} {precision}: {result}")
    assert result is not None
    assert result.passed


@precisions
@shapes
def test_v1_is_bitwise_fair_esms_padded_forward_of_the_same_sub_batch(shape: str, precision: str) -> None:
    model = wrapped(shape, precision)
    proteins = random_proteins([*LENGTHS, *[100] * 50])
    actual = run(model, proteins, v1=True)
    widths = [-(-len(protein) // WIDTH_STEP) * WIDTH_STEP for protein in proteins]
    for width in set(widths):
        members = [index for index, its in enumerate(widths) if its == width]
        step = max(1, PADDED_TOKENS // width)
        for batch in (members[first : first + step] for first in range(0, len(members), step)):
            tokens = torch.full((len(batch), width), 1)
            for row, index in enumerate(batch):
                tokens[row, : len(proteins[index])] = torch.from_numpy(proteins[index])
            # In fp32 fair-esm's bare model; in 16 bits it would round its rotary tables first.
            forward = model.model if precision == "fp32" else model
            with torch.inference_mode():
                result = forward(tokens.cuda(), repr_layers=[model.num_layers])["representations"]
            for row, index in enumerate(batch):
                assert torch.equal(actual[index], result[model.num_layers][row, : len(proteins[index])])


@precisions
@shapes
def test_v1_is_fair_esms_fp32_forward(shape: str, precision: str) -> None:
    expected = reference(shape)
    rows = torch.cat(run(wrapped(shape, precision), expected.proteins, v1=True)).cpu()
    pooled = mean_of_residues(rows, layout_of(expected.proteins))
    distance, _ = report(f"{shape} {precision} v1 pooled", pooled, expected.pooled)
    # The same roundings as fair-esm's own forward, but other sub-batches, and so other orders of sums.
    assert distance < 1.1 * pooled_limit(shape, precision)


@backends
@precisions
@shapes
def test_bits_do_not_depend_on_order_or_neighbours_of_the_same_length(
    shape: str, precision: str, backend: str
) -> None:
    model = wrapped(shape, precision, backend)
    proteins = random_proteins(LENGTHS)
    together = run(model, proteins)
    order = np.random.default_rng(3).permutation(len(proteins))
    for index, rows in zip(order, run(model, [proteins[index] for index in order]), strict=True):
        assert torch.equal(rows, together[index])
    changed = [*proteins]
    changed[5] = random_proteins([len(proteins[5])], seed=4)[0]
    for index, rows in enumerate(run(model, changed)):
        assert torch.equal(rows, together[index]) is (index != 5)


@backends
@precisions
@shapes
def test_bits_do_not_depend_on_the_size_of_the_batch(shape: str, precision: str, backend: str) -> None:
    model = wrapped(shape, precision, backend)
    proteins = random_proteins([*LENGTHS, *[168] * 80])
    together = run(model, proteins)
    differing = []
    for size in (1, 2, 5, 12, 40):
        rows = run(model, proteins[:size])
        differing += [size for index in range(size) if not torch.equal(rows[index], together[index])]
        assert relative_l2(torch.cat(rows), torch.cat(together[:size])) < 1e-5
    print(f"{shape} {precision} {backend}: batch sizes with other bits {sorted(set(differing))}")
    assert precision == "fp32" or not differing, FP32_BITS


@backends
@precisions
@shapes
def test_a_forward_never_waits_for_the_device(shape: str, precision: str, backend: str) -> None:
    model = wrapped(shape, precision, backend)
    assert_never_waits(model, random_proteins(LENGTHS, masks=True))


@cache
def tame_dnabert_s(config: DnabertSConfig) -> DnabertS:
    """Weights as newly made: those of `random_dnabert_s` blow any rounding up a thousandfold in 12 layers."""
    torch.manual_seed(0)
    model = DnabertS(config).eval().requires_grad_(False)
    shake(model)
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
    return model


def dnabert_s_on_gpu(precision: str, backend: str) -> DnabertS:
    config = PUBLISHED_DNABERT_S
    chosen = next(each for each in BACKENDS if each.name == backend)
    reason = chosen.refusal(torch.device("cuda"), DTYPES[precision], config.dim // config.heads, alibi=True)
    if reason:
        pytest.skip(f"{backend}: {reason}")
    model = DnabertS(config, backend).eval().requires_grad_(False)
    model.load_state_dict(tame_dnabert_s(config).state_dict())
    return model.to("cuda", DTYPES[precision])


@backends
@precisions
def test_dnabert_s_is_itself_in_fp32_on_the_cpu(precision: str, backend: str) -> None:
    sequences = random_dna([2, 110, 33, 300, 1, 64], vocabulary=PUBLISHED_DNABERT_S.vocab)
    with torch.inference_mode():
        expected = tame_dnabert_s(PUBLISHED_DNABERT_S).forward_packed(*packed(sequences))
        actual = dnabert_s_on_gpu(precision, backend).forward_packed(*packed(sequences))
    layout = layout_of(sequences)
    pooled = mean_of_tokens(actual.cpu(), layout), mean_of_tokens(expected, layout)
    assert report(f"DNABERT-S {precision} {backend} pooled", *pooled)[0] < POOLED_TOLERANCE[precision]


@backends
@precisions
def test_dnabert_s_bits_do_not_depend_on_the_batch(precision: str, backend: str) -> None:
    model = dnabert_s_on_gpu(precision, backend)
    sequences = random_dna([64, 110, 33, 300, 1, *[100] * 60], vocabulary=PUBLISHED_DNABERT_S.vocab)
    with torch.inference_mode():
        together = by_segment(model.forward_packed(*packed(sequences)), sequences)
        for size in (1, 3, 20):
            rows = by_segment(model.forward_packed(*packed(sequences[:size])), sequences[:size])
            same = all(torch.equal(rows[index], together[index]) for index in range(size))
            assert precision == "fp32" or same, FP32_BITS
            assert relative_l2(torch.cat(rows), torch.cat(together[:size])) < 1e-5


@backends
def test_dnabert_s_and_the_head_never_wait_for_the_device(backend: str) -> None:
    model = dnabert_s_on_gpu("fp32" if backend == "sdpa" else "fp16", backend)
    head = Head(2 * PUBLISHED_DNABERT_S.dim, 64).eval().cuda()
    ids, bounds, longest = packed(random_dna([2, 110, 33], vocabulary=PUBLISHED_DNABERT_S.vocab))

    def forward() -> Tensor:
        layout = PackedLayout.build(bounds, len(ids), "cuda")
        pooled = mean_of_tokens(model.forward_packed(ids, layout, longest), layout)
        logits: Tensor = head(frame_features(pooled, pooled))
        return logits

    with torch.inference_mode():
        expected = forward()
        with no_synchronisation():
            actual = forward()
        assert torch.equal(actual, expected)


@precisions
@pytest.mark.parametrize("v1", [False, True], ids=["packed", "v1"])
def test_an_engines_scores_are_the_cpus_and_do_not_depend_on_the_batch(
    precision: str, v1: bool, tmp_path: Path
) -> None:
    bundle = random_bundle(tmp_path / "bundle")
    engine = Engine(bundle, device="cuda", precision=precision, v1_attention=v1)
    print(engine.info)
    frames = random_frames(120)
    scores = engine.score(frames)
    expected = Engine(bundle, device="cpu").score(frames)
    print(f"{precision}: largest difference of a score {np.abs(scores - expected).max():.2e}")
    np.testing.assert_allclose(scores, expected, atol={"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2}[precision])
    order = np.random.default_rng(1).permutation(len(frames))
    np.testing.assert_array_equal(engine.score([frames[index] for index in order]), scores[order])
    parts = [engine.score(frames[first : first + 7]) for first in range(0, len(frames), 7)]
    np.testing.assert_allclose(np.concatenate(parts), scores, rtol=1e-6)
    if precision != "fp32":
        np.testing.assert_array_equal(np.concatenate(parts), scores, err_msg=FP32_BITS)


def test_fp16_is_what_auto_means_on_a_gpu(tmp_path: Path) -> None:
    engine = Engine(random_bundle(tmp_path / "bundle"))
    assert engine.info.precision == "fp16"
    assert engine.info.device.startswith("cuda:0 (")
    assert engine.default_token_budget == 16384


@backends
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_gradients_flow_through_every_back_end(precision: str, backend: str) -> None:
    model = wrapped("8M", precision, backend)
    proteins = random_proteins(LENGTHS)
    model.requires_grad_(True)
    try:
        rows = model.forward_packed(*packed(proteins))["representations"][model.num_layers]
        try:
            rows.float().pow(4).sum().backward()
        except RuntimeError as error:
            if "built without backward" not in str(error):
                raise
            pytest.skip(f"{backend}: this build has no backward")
        for layer in model.model.layers:
            for part in (layer.self_attn.q_proj, layer.self_attn.v_proj, layer.fc1):
                assert part.weight.grad is not None
                assert part.weight.grad.isfinite().all()
                assert part.weight.grad.abs().sum() > 0
    finally:
        model.zero_grad()
        model.requires_grad_(False)
