"""The plain functions that the kernels must equal, against fair-esm's own; which kernels serve where, and why not."""

from __future__ import annotations

import subprocess
import sys

import esm.modules
import esm.rotary_embedding
import numpy as np
import pytest
import torch
from torch import Tensor

from virnucpro_core.models.attention import Sdpa
from virnucpro_core.models.kernels import add_norm, gelu, quantise, rotation
from virnucpro_core.models.kernels.choice import (
    PLAIN,
    REFUSALS,
    Case,
    KernelsUnavailable,
    choose_kernels,
    means_of_segments,
    triton_refusal,
)
from virnucpro_core.models.kernels.fp8 import Fp8Linear, fp8_refusal
from virnucpro_core.models.kernels.rotary_attention import query_tiles, rotate_then_attend, short_by_kernel
from virnucpro_core.models.kernels.tiles import two_parts
from virnucpro_core.models.layout import PackedLayout

CPU = torch.device("cpu")
HEADS, SIZE = 3, 16


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layout_of(*lengths: int) -> PackedLayout:
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return PackedLayout.build(bounds, int(bounds[-1]), CPU, min_rows=0)


def test_add_norm_is_fair_esms_residual_addition_and_norm() -> None:
    norm = esm.modules.ESM1bLayerNorm(96)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x, y = 3e-3 * randn(5, 96), 3e-3 * randn(5, 96, seed=1)
    summed = x + y
    with torch.no_grad():
        out = add_norm.add_norm(x, y, norm.weight, norm.bias, norm.eps, torch.float32)
        assert torch.equal(x, summed)  # in place
        assert torch.equal(out, norm(summed))
        again = add_norm.add_norm(x, None, norm.weight, norm.bias, norm.eps, torch.bfloat16)
    assert torch.equal(again, norm(summed).bfloat16())
    assert torch.equal(x, summed)


def test_gelu_is_fair_esms() -> None:
    x = 4 * randn(1000)
    expected = esm.modules.gelu(x)
    out = gelu.gelu(x)
    assert out is x
    # Where 1 + erf cancels, another erf of the same accuracy differs by some units of the last place of 1.
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_rotate_is_fair_esms_rotary_embedding_from_the_start_of_each_segment() -> None:
    turn = esm.rotary_embedding.RotaryEmbedding(SIZE)
    lengths = (4, 9)
    layout = layout_of(*lengths)
    angles = torch.outer(torch.arange(32.0), turn.inv_freq)
    qkv = randn(layout.rows, 3, HEADS, SIZE)
    expected = qkv.clone()
    for part in torch.split(torch.arange(layout.rows), lengths):
        q, k = turn(*(qkv[part, index].transpose(0, 1) for index in (0, 1)))  # [heads, tokens, size]
        expected[part, 0], expected[part, 1] = q.transpose(0, 1), k.transpose(0, 1)
    out = rotation.rotate(qkv, angles.cos(), angles.sin(), layout.positions)
    assert out is qkv
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(
        rotation.rotate(qkv, angles.cos(), angles.sin(), layout.positions + 1), expected
    )


def test_segments_long_and_short_are_put_back_where_they_came_from() -> None:
    lengths = (3, 40, 17, 33, 1)
    layout = layout_of(*lengths)
    angles = torch.outer(torch.arange(64.0), 1.0 / 10000 ** (torch.arange(0, SIZE, 2) / SIZE))
    cos, sin = angles.cos(), angles.sin()
    qkv = randn(layout.rows, 3, HEADS, SIZE)

    def apart(part: PackedLayout):
        return rotate_then_attend(part, cos, sin, Sdpa().bind(part, torch.float32))

    expected = apart(layout)(qkv.clone())

    def kernel(x: Tensor, out: Tensor, tiles: Tensor) -> None:
        """What the fused kernel does: only the rows of its tiles are written."""
        out.fill_(torch.nan)
        bounds = layout.cu_seqlens.tolist()
        for segment, first in tiles.tolist():
            rows = slice(bounds[segment] + first, min(bounds[segment] + first + 16, bounds[segment + 1]))
            out[rows] = expected[rows]

    for longest in (0, 1, 17, 33, 40):
        out = short_by_kernel(layout, kernel, longest, 16, apart)(qkv.clone())
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_tiles_cover_each_served_segment_from_its_own_start() -> None:
    tiles = query_tiles(np.array([70, 500, 64, 1]), np.array([True, False, True, True]), 64)
    assert tiles.tolist() == [[0, 0], [0, 64], [2, 0], [3, 0]]


def test_rows_in_fp8_lose_at_most_half_a_step() -> None:
    x = randn(6, 40) * torch.tensor([1e-3, 1.0, 5.0, 1e3, 1e-9, 0.0])[:, None]
    rows, scales = quantise.quantise_rows(x)
    assert (rows.dtype, scales.shape) == (torch.float8_e4m3fn, (6,))
    assert rows.float().abs().amax(1).tolist() == [448.0] * 5 + [0.0]
    # e4m3 has three bits after the point, and steps of 2^-9 near zero.
    off = (rows.float() * scales[:, None] - x).abs()
    assert (off <= (x.abs() / 16).maximum(scales[:, None] / 1024) * 1.0001).all()
    spoilt = x.clone()
    spoilt[1, 3], spoilt[2, 0] = torch.nan, torch.inf
    assert (
        quantise.quantise_rows(spoilt)[0].float().isnan().any(1).tolist() == [False, True, True] + [False] * 3
    )


def test_an_fp8_linear_is_its_linear_but_for_the_rounding() -> None:
    weight, bias, x = randn(48, 32), randn(48, seed=1).bfloat16(), randn(20, 32, seed=2)
    linear = Fp8Linear.quantise(weight, bias)
    out = linear.plain(*quantise.quantise_rows(x))
    expected = torch.nn.functional.linear(x, weight, bias.float())
    assert out.dtype == torch.bfloat16
    assert 0.005 < (out.float() - expected).norm() / expected.norm() < 0.05


def test_segment_means_of_the_cpu_are_plain() -> None:
    rows = randn(12, 5)
    bounds = torch.tensor([0, 3, 12])
    with torch.inference_mode():
        assert torch.allclose(
            means_of_segments(rows, bounds, 0), torch.stack([rows[:3].mean(0), rows[3:].mean(0)])
        )
        assert torch.allclose(means_of_segments(rows, bounds, 1), torch.stack([rows[1], rows[4:11].mean(0)]))


@pytest.mark.parametrize("width", [2, 3, 64, 96, 128, 320, 480, 640, 1280, 2560, 5120, 10240, 16384])
def test_two_powers_of_two_cover_a_row(width: int) -> None:
    first, rest = two_parts(width)
    assert first < width <= first + rest
    assert all(part & (part - 1) == 0 for part in (first, rest))
    if width in (64, 320, 640, 1280, 2560, 5120, 10240):  # ESM-2's
        assert first + rest == width


def test_on_a_cpu_plain_torch_serves_and_the_reason_is_said() -> None:
    case = Case(CPU, torch.float32, 1280, 64)
    chosen = choose_kernels("auto", case)
    assert (chosen.name, chosen.refusals) == ("torch", {"triton": "needs a CUDA device, not cpu"})
    assert chosen.add_norm is add_norm.add_norm
    assert choose_kernels("torch", case) is PLAIN
    with pytest.raises(KernelsUnavailable, match="needs a CUDA device, not cpu"):
        choose_kernels("triton", case)
    with pytest.raises(ValueError, match="'cuda'; known: auto, triton, torch"):
        choose_kernels("cuda", case)


def test_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    cuda = torch.device("cuda")
    assert triton_refusal(cuda) == "needs compute capability 8.0 or higher"
    assert fp8_refusal(cuda, torch.float16, 1280) == "needs a GPU of compute capability 9.0 or higher"


def test_a_gpu_without_triton_is_served_by_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, "triton.errors", None)
    case = Case(torch.device("cuda:7"), torch.float16, 1280, 64)  # of no other test: the answer is kept
    chosen = choose_kernels("auto", case)
    assert chosen.name == "torch"
    assert chosen.refusals["triton"].startswith("Triton cannot be imported (import of triton.errors halted")


@pytest.mark.parametrize(
    ("dim", "head_dim", "refused"),
    [
        (2560, 64, {}),
        (320, 16, {}),
        (480, 24, {}),
        (480, 48, {"rotary_attention": "needs a head size of 16, 24, 32, 64, 128, not 48"}),
        (5120, 128, {"gelu_quantise": "needs a width of up to 4096, not 5120"}),
        (
            20480,
            64,
            {
                "add_norm": "needs a width of 2 to 16384, not 20480",
                "gelu_quantise": "needs a width of up to 4096, not 20480",
            },
        ),
    ],
)
def test_each_kernel_says_what_it_cannot_serve(dim: int, head_dim: int, refused: dict[str, str]) -> None:
    case = Case(torch.device("cuda"), torch.float16, dim, head_dim)
    assert {name: why for name, refusal in REFUSALS.items() if (why := refusal(case))} == refused


def test_choosing_on_a_cpu_does_not_import_triton() -> None:
    code = (
        "import sys, torch; from virnucpro_core.models.kernels.choice import Case, choose_kernels;"
        "choose_kernels('auto', Case(torch.device('cpu'), torch.float32, 64, 16));"
        "print('triton.language' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"
