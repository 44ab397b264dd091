"""The packed forward with Triton's kernels: numbers, bits, synchronisations; ESM-2's shapes, random weights.

python -m pytest tests/gpu/test_fused_forward.py -rP
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.gpu.test_gpu_numerics import (
    LENGTHS,
    assert_bits_are_its_own,
    assert_never_waits,
    new_model,
    reference,
    run,
    shapes,
)
from tests.support.models_fixture import layout_of, packed, random_proteins
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.kernels.choice import LONGEST_FUSED, TORCH, TRITON
from virnucpro_core.models.pooling import mean_of_residues

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.timeout(600),
]
halves = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@cache
def model(shape: str, dtype: torch.dtype, kernels: str = TRITON) -> ESM2WithFlashAttention:
    torch.cuda.empty_cache()
    return ESM2WithFlashAttention(new_model(shape), kernels=kernels).to(dtype)


def error(actual: Tensor, exact: Tensor) -> float:
    actual, exact = actual.double().cpu(), exact.double().cpu()
    return float((actual - exact).norm() / exact.norm())


@halves
@shapes
def test_the_fused_forward_is_at_least_as_exact_as_the_plain_one(shape: str, dtype: torch.dtype) -> None:
    expected = reference(shape)
    layout = layout_of(expected.proteins)
    errors = {}
    for kernels in (TORCH, TRITON):
        rows = torch.cat(run(model(shape, dtype, kernels), expected.proteins)).cpu()
        errors[kernels] = (
            error(rows, expected.tokens),
            error(mean_of_residues(rows, layout), expected.pooled),
        )
    print(f"{shape} {dtype}: per token and pooled, torch {errors[TORCH]}, triton {errors[TRITON]}")
    assert errors[TRITON][0] < 1.05 * errors[TORCH][0]
    assert errors[TRITON][1] < 1.1 * errors[TORCH][1]


@halves
@shapes
def test_a_representation_of_any_layer_is_the_plain_ones(shape: str, dtype: torch.dtype) -> None:
    proteins = random_proteins(LENGTHS, masks=True)
    last = model(shape, dtype).num_layers
    kept = [0, 1, last - 1, last]
    with torch.inference_mode():
        fused, plain = (
            model(shape, dtype, kernels).forward_packed(*packed(proteins), repr_layers=kept)[
                "representations"
            ]
            for kernels in (TRITON, TORCH)
        )
    assert torch.equal(fused[0], plain[0])
    for layer in kept[1:]:
        assert fused[layer].dtype == dtype
        assert error(fused[layer], plain[layer]) < 0.03


@halves
@shapes
def test_bits_do_not_depend_on_neighbours_place_or_size_of_the_batch(shape: str, dtype: torch.dtype) -> None:
    chosen = model(shape, dtype)
    assert_bits_are_its_own(chosen, random_proteins([*LENGTHS, LONGEST_FUSED + 1, LONGEST_FUSED]))


@halves
@shapes
def test_pooled_bits_do_not_depend_on_the_batch(shape: str, dtype: torch.dtype) -> None:
    chosen = model(shape, dtype)
    proteins = random_proteins([*LENGTHS, *[168] * 60])
    with torch.inference_mode():
        whole, few = (
            mean_of_residues(torch.cat(run(chosen, part)), layout_of(part, "cuda"))
            for part in (proteins, proteins[3:9])
        )
    assert torch.equal(whole[3:9], few)


@halves
@shapes
def test_a_forward_never_waits_for_the_device(shape: str, dtype: torch.dtype) -> None:
    chosen = model(shape, dtype)
    assert_never_waits(chosen, random_proteins([*LENGTHS, LONGEST_FUSED + 1], masks=True))


@halves
def test_gradients_take_the_plain_path(dtype: torch.dtype) -> None:
    chosen = ESM2WithFlashAttention(new_model("8M").requires_grad_(True), "sdpa", kernels=TRITON).to(dtype)
    rows = chosen.forward_packed(*packed(random_proteins(LENGTHS)))["representations"][chosen.num_layers]
    rows.float().pow(2).sum().backward()
    assert chosen.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_a_back_end_asked_for_by_name_attends_itself() -> None:
    chosen = ESM2WithFlashAttention(new_model("650M"), backend="sdpa").to(torch.float16)
    kernels = chosen.kernels(chosen.device, torch.float16)
    assert kernels.name == TRITON
    assert not kernels.fused_attention
    assert kernels.refusals["rotary_attention"] == "the attention back-end sdpa is asked for by name"
