"""Each kernel against its plain torch function, its bits against other neighbours, places and batch sizes.

    python -m pytest tests/gpu/test_kernels.py -rP
    TRITON_INTERPRET=1 python -m pytest tests/gpu/test_kernels.py     # on a CPU: slow, fp16 only

Errors are not held to absolute numbers: a kernel's distance from the exact result (fp64) is at most a small multiple
of the distance of the plain torch function in the same precision. For each bound there is a test that it is crossed
when the kernel gets the wrong thing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from virnucpro_core.models.attention import AUTO, choose_backend
from virnucpro_core.models.kernels import add_norm, gelu, quantise, rotation, segment_means
from virnucpro_core.models.kernels.fp8 import Fp8Linear, fp8_refusal
from virnucpro_core.models.kernels.rotary_attention import rotate_then_attend, short_by_kernel
from virnucpro_core.models.layout import PackedLayout

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.timeout(600),
]
needs_fp8 = pytest.mark.skipif(INTERPRETED, reason="the interpreter rounds to fp8 in another way")
# The interpreter rounds to bf16 and fp8 in another way.
HALVES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
dtypes = pytest.mark.parametrize("dtype", HALVES, ids=str)
widths = pytest.mark.parametrize("width", [2560, 1280, 480, 320, 128, 96])

EPS = 1e-5
CLOSE = 1.05
"""Largest error of a kernel, as a multiple of the plain function's, where both round once to 16 bits."""
LENGTHS = (1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 166, 168, 200, 255, 257, 511, 512, 513, 1000, 1022)
HEAD_SIZES = (16, 24, 32, 64, 128)


def triton(name: str) -> Callable[..., Tensor]:
    """A kernel by name; its module is imported only here, so that collecting the tests needs no Triton."""
    from importlib import import_module

    pytest.importorskip("triton")
    places = {
        "add_norm_quantise": "add_norm",
        "quantise_rows": "quantise",
        "gelu_quantise": "quantise",
        "rotate": "rotation",
    }
    module = import_module(f"virnucpro_core.models.kernels.{places.get(name, name)}_triton")
    function: Callable[..., Tensor] = getattr(module, name)
    return function


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def error(actual: Tensor, exact: Tensor) -> float:
    """Relative L2 distance; infinite if anything is not finite."""
    distance = (actual.double() - exact).norm() / exact.norm()
    return float(distance) if torch.isfinite(distance) else math.inf


def ratio(actual: Tensor, plain: Tensor, exact: Tensor) -> float:
    """The error of `actual`, as a multiple of that of `plain`."""
    ours, theirs = error(actual, exact), error(plain, exact)
    return 0.0 if ours == 0 else ours / max(theirs, 1e-12)


# ---- residual addition and LayerNorm ----------------------------------------------------------------------------


def stream(width: int, rows: int = 40) -> Tensor:
    """A residual stream: ordinary rows, rows far from 0, and quiet rows, in which a norm's epsilon matters."""
    x = randn(rows, width)
    x[10:20] += 30
    x[20:30] *= 3e-3
    return x


def norm_weights(width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return 1 + 0.3 * randn(width, seed=2, dtype=dtype), randn(width, seed=3, dtype=dtype)


def exact_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = EPS) -> Tensor:
    return F.layer_norm(x.double(), (x.shape[1],), weight.double(), bias.double(), eps)


@widths
@dtypes
@pytest.mark.parametrize("adds", [True, False], ids=["add", "norm alone"])
def test_add_norm_is_as_exact_as_torch(width: int, dtype: torch.dtype, adds: bool) -> None:
    weight, bias = norm_weights(width, dtype)
    y = 0.01 * randn(40, width, seed=1, dtype=dtype) if adds else None
    ours, theirs = stream(width), stream(width)
    actual = triton("add_norm")(ours, y, weight, bias, EPS, dtype)
    plain = add_norm.add_norm(theirs, y, weight, bias, EPS, dtype)
    assert torch.equal(ours, theirs)  # the stream itself
    assert actual.dtype == dtype
    for rows in (slice(0, 10), slice(10, 20), slice(20, 30)):
        exact = exact_norm(theirs[rows], weight, bias)
        assert ratio(actual[rows], plain[rows], exact) < CLOSE


@widths
def test_add_norm_in_fp32_is_as_exact_as_torch(width: int) -> None:
    weight, bias = norm_weights(width, torch.float32)
    x = stream(width)[:10]
    exact = exact_norm(x, weight, bias)
    plain = add_norm.add_norm(x, None, weight, bias, EPS, torch.float32)
    assert ratio(triton("add_norm")(x, None, weight, bias, EPS, torch.float32), plain, exact) < 1.5


@dtypes
def test_the_bound_of_add_norm_is_crossed_by_a_wrong_epsilon_or_a_lost_addition(dtype: torch.dtype) -> None:
    weight, bias = norm_weights(1280, dtype)
    y = 0.01 * randn(40, 1280, seed=1, dtype=dtype)
    x = stream(1280)
    plain = add_norm.add_norm(x, y, weight, bias, EPS, dtype)[20:30]
    exact = exact_norm(x, weight, bias)[20:30]
    for eps in (1e-12, 0.9 * EPS, 1.1 * EPS):
        wrong = triton("add_norm")(stream(1280), y, weight, bias, eps, dtype)[20:30]
        assert ratio(wrong, plain, exact) > CLOSE
    wrong = triton("add_norm")(stream(1280), None, weight, bias, EPS, dtype)[20:30]
    assert ratio(wrong, plain, exact) > CLOSE


@widths
@dtypes
def test_the_bits_of_add_norm_depend_on_the_row_alone(width: int, dtype: torch.dtype) -> None:
    weight, bias = norm_weights(width, dtype)
    rows = 40 if INTERPRETED else 5000
    x, y = randn(rows, width), randn(rows, width, seed=1, dtype=dtype)
    together = triton("add_norm")(x.clone(), y, weight, bias, EPS, dtype)
    x[7] = math.nan
    for part in (slice(0, 1), slice(3, 7), slice(8, rows), slice(rows - 1, rows)):
        alone = triton("add_norm")(x[part].clone(), y[part], weight, bias, EPS, dtype)
        assert torch.equal(alone, together[part])
    others = triton("add_norm")(x, y, weight, bias, EPS, dtype)
    assert torch.equal(others[:7], together[:7])
    assert torch.equal(others[8:], together[8:])


# ---- gelu -------------------------------------------------------------------------------------------------------


def every_value(dtype: torch.dtype) -> Tensor:
    """All finite values of a 16-bit type."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    return values[values.isfinite()].to(DEVICE)


def exact_gelu(x: Tensor) -> Tensor:
    return x.double() * 0.5 * torch.special.erfc(-x.double() / math.sqrt(2))


def value_ratio(actual: Tensor, plain: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    """The largest error, in roundings of the exact value to `dtype`, as a multiple of that of `plain`."""
    info = torch.finfo(dtype)
    unit = (exact.abs() * info.eps).clamp(min=info.smallest_normal * info.eps)
    ours, theirs = (((each.double() - exact).abs() / unit).max() for each in (actual, plain))
    return float(ours / theirs)


@dtypes
def test_gelu_of_every_value_is_as_exact_as_torchs(dtype: torch.dtype) -> None:
    x = every_value(dtype)
    plain = gelu.gelu(x.clone())
    actual = triton("gelu")(x.clone())
    assert value_ratio(actual, plain, exact_gelu(x), dtype) < CLOSE
    common = (x > -2) & (x < 8)  # torch's sum 1 + erf cancels below: there it is not much of a yardstick
    assert value_ratio(actual[common], plain[common], exact_gelu(x[common]), dtype) < CLOSE
    assert ratio(actual[common], plain[common], exact_gelu(x[common])) < CLOSE


@dtypes
def test_the_bound_of_gelu_is_crossed_by_the_tanh_form(dtype: torch.dtype) -> None:
    x = every_value(dtype)
    x = x[(x > -2) & (x < 8)]
    wrong = F.gelu(x, approximate="tanh")
    assert value_ratio(wrong, gelu.gelu(x.clone()), exact_gelu(x), dtype) > CLOSE


@dtypes
def test_gelu_keeps_what_is_not_finite(dtype: torch.dtype) -> None:
    x = torch.tensor([math.nan, math.inf, 1.0], dtype=dtype, device=DEVICE)
    expected = gelu.gelu(x.clone())
    assert torch.equal(triton("gelu")(x).nan_to_num(7.0), expected.nan_to_num(7.0))


@dtypes
def test_the_bits_of_gelu_depend_on_the_value_alone(dtype: torch.dtype) -> None:
    x = randn(10_000, dtype=dtype)
    together = triton("gelu")(x.clone())
    for size in (1, 3, 17, 2047, 2048, 2049, 9999):
        assert torch.equal(triton("gelu")(x[-size:].clone()), together[-size:])


# ---- rotary embedding -------------------------------------------------------------------------------------------


def tables(size: int, length: int = 1056) -> tuple[Tensor, Tensor]:
    inverse = 1.0 / 10000 ** (torch.arange(0, size, 2, device=DEVICE) / size)
    angles = torch.outer(torch.arange(length, device=DEVICE, dtype=torch.float32), inverse)
    return angles.cos(), angles.sin()


def layout_of(lengths: list[int] | tuple[int, ...]) -> PackedLayout:
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return PackedLayout.build(bounds, int(bounds[-1]), DEVICE, min_rows=0)


def exact_rotation(qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """fp64 [rows, 2, heads, size]"""
    cos, sin = cos.double()[positions][:, None, None], sin.double()[positions][:, None, None]
    first, second = qkv[:, :2].double().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@dtypes
@pytest.mark.parametrize("heads", [1, 20, 40])
@pytest.mark.parametrize("size", HEAD_SIZES)
def test_rotate_is_as_exact_as_torch_and_leaves_v_alone(size: int, heads: int, dtype: torch.dtype) -> None:
    lengths = [3, 166, 1022] if not INTERPRETED else [3, 40]
    layout, (cos, sin) = layout_of(lengths), tables(size)
    qkv = randn(layout.rows, 3, heads, size, dtype=dtype)
    actual = triton("rotate")(qkv.clone(), cos, sin, layout.positions)
    plain = rotation.rotate(qkv.clone(), cos, sin, layout.positions)
    exact = exact_rotation(qkv, cos, sin, layout.positions)
    assert ratio(actual[:, :2], plain[:, :2], exact) < CLOSE
    assert torch.equal(actual[:, 2], qkv[:, 2])
    for wrong in (layout.positions + 1, torch.arange(layout.rows, device=DEVICE) % 1000):
        assert ratio(triton("rotate")(qkv.clone(), cos, sin, wrong)[:, :2], plain[:, :2], exact) > CLOSE


@dtypes
@pytest.mark.parametrize("size", [16, 64])
def test_the_bits_of_rotate_depend_on_the_row_alone(size: int, dtype: torch.dtype) -> None:
    layout, (cos, sin) = layout_of([5, 166, 31, 64]), tables(size)
    qkv = randn(layout.rows, 3, 4, size, dtype=dtype)
    together = triton("rotate")(qkv.clone(), cos, sin, layout.positions)
    for part in (slice(0, 1), slice(3, 8), slice(100, layout.rows)):
        alone = triton("rotate")(qkv[part].clone(), cos, sin, layout.positions[part])
        assert torch.equal(alone, together[part])


# ---- rotary embedding and attention -----------------------------------------------------------------------------


def exact_attention(qkv: Tensor, cos: Tensor, sin: Tensor, layout: PackedLayout) -> Tensor:
    """fp64 [rows, heads * size], segment by segment."""
    rotated = exact_rotation(qkv, cos, sin, layout.positions)
    outputs = []
    for part in torch.split(torch.arange(layout.rows, device=DEVICE), layout.lengths.tolist()):
        q, k, v = rotated[part, 0], rotated[part, 1], qkv[part, 2].double()
        scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(qkv.shape[-1])
        outputs.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1))
    return torch.cat(outputs)


def in_two_steps(
    layout: PackedLayout, dtype: torch.dtype, cos: Tensor, sin: Tensor
) -> Callable[[Tensor], Tensor]:
    backend = choose_backend(AUTO, DEVICE, dtype, 2 * cos.shape[1], alibi=False).backend
    return rotate_then_attend(layout, cos, sin, backend.bind(layout, dtype))


def fused(qkv: Tensor, layout: PackedLayout, cos: Tensor, sin: Tensor, longest: int = 10_000) -> Tensor:
    """By the kernel for segments of up to `longest`, else in two steps; leaves `qkv` as it is."""
    from virnucpro_core.models.kernels.rotary_attention_triton import QUERIES

    def kernel(x: Tensor, out: Tensor, tiles: Tensor) -> None:
        out.fill_(math.nan)
        triton("rotary_attention")(x, cos, sin, layout.cu_seqlens, tiles, out)

    attend = short_by_kernel(
        layout, kernel, longest, QUERIES, lambda part: in_two_steps(part, qkv.dtype, cos, sin)
    )
    return attend(qkv.clone())


def random_qkv(layout: PackedLayout, size: int, dtype: torch.dtype, heads: int = 2) -> Tensor:
    """Scores with a standard deviation of about 4, so that attention is far from even."""
    return 2 * randn(layout.rows, 3, heads, size, dtype=dtype)


def segment_ratios(actual: Tensor, plain: Tensor, exact: Tensor, layout: PackedLayout) -> list[float]:
    parts = [torch.split(each, layout.lengths.tolist()) for each in (actual, plain, exact)]
    return [ratio(*each) for each in zip(*parts, strict=True)]


@dtypes
@pytest.mark.parametrize("size", HEAD_SIZES)
def test_rotary_attention_is_as_exact_as_the_two_steps(size: int, dtype: torch.dtype) -> None:
    layout, (cos, sin) = layout_of(LENGTHS[:16] if INTERPRETED else LENGTHS), tables(size)
    qkv = random_qkv(layout, size, dtype)
    exact = exact_attention(qkv, cos, sin, layout)
    plain = in_two_steps(layout, dtype, cos, sin)(qkv.clone())
    ratios = segment_ratios(fused(qkv, layout, cos, sin), plain, exact, layout)
    print(
        f"size {size} {dtype}: {dict(zip(layout.lengths.tolist(), (round(each, 3) for each in ratios), strict=True))}"
    )
    assert max(ratios) < CLOSE


@dtypes
@pytest.mark.parametrize("size", HEAD_SIZES)
def test_the_bound_of_rotary_attention_is_crossed_by_a_wrong_position_or_length(
    size: int, dtype: torch.dtype
) -> None:
    layout, (cos, sin) = layout_of([33, 166]), tables(size)
    qkv = random_qkv(layout, size, dtype)
    exact = exact_attention(qkv, cos, sin, layout)
    plain = in_two_steps(layout, dtype, cos, sin)(qkv.clone())
    # All positions one further is the same attention, rounded otherwise; some of them one further is another.
    shifted = [torch.cat([table[:20], table[21:]]) for table in (cos, sin)]
    assert min(segment_ratios(fused(qkv, layout, *shifted), plain, exact, layout)) > CLOSE
    assert max(segment_ratios(fused(qkv, layout, cos[1:], sin[1:]), plain, exact, layout)) < 1.5
    # A key too few, a key of the neighbour.
    other = layout_of([32, 167])
    assert min(segment_ratios(fused(qkv, other, cos, sin), plain, exact, layout)) > CLOSE


@dtypes
@pytest.mark.parametrize("size", HEAD_SIZES)
def test_the_bits_of_rotary_attention_depend_on_the_segment_alone(size: int, dtype: torch.dtype) -> None:
    cos, sin = tables(size)
    lengths = [1, 33, 64, 65, 129, 166] if INTERPRETED else [*LENGTHS, *[168] * 40]
    layout = layout_of(lengths)
    qkv = random_qkv(layout, size, dtype)
    together = torch.split(fused(qkv, layout, cos, sin), lengths)
    parts = torch.split(qkv, lengths)
    for index in range(min(len(lengths), len(LENGTHS))):
        alone = fused(parts[index], layout_of([lengths[index]]), cos, sin)
        assert torch.equal(alone, together[index])
    order = np.random.default_rng(1).permutation(len(lengths)).tolist()
    mixed = fused(torch.cat([parts[i] for i in order]), layout_of([lengths[i] for i in order]), cos, sin)
    for index, rows in zip(order, torch.split(mixed, [lengths[i] for i in order]), strict=True):
        assert torch.equal(rows, together[index])
    spoilt = [*parts]
    spoilt[2] = torch.full_like(parts[2], math.nan)
    for index, rows in enumerate(torch.split(fused(torch.cat(spoilt), layout, cos, sin), lengths)):
        assert torch.equal(rows, together[index]) is (index != 2)


@dtypes
def test_a_short_segments_bits_do_not_depend_on_a_long_neighbour(dtype: torch.dtype) -> None:
    cos, sin = tables(64)
    lengths = [64, 200, 33, 129, 3, 128]
    layout = layout_of(lengths)
    qkv = random_qkv(layout, 64, dtype)
    parts, both = torch.split(qkv, lengths), torch.split(fused(qkv, layout, cos, sin, 128), lengths)
    for part, rows, length in zip(parts, both, lengths, strict=True):
        alone = fused(part, layout_of([length]), cos, sin, longest=128)
        assert torch.equal(rows, alone)
    exact = exact_attention(qkv, cos, sin, layout)
    plain = in_two_steps(layout, dtype, cos, sin)(qkv.clone())
    assert max(segment_ratios(torch.cat(both), plain, exact, layout)) < CLOSE


# ---- means ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("width", [2560, 320, 96])
def test_segment_means_are_as_exact_as_torch(width: int, skip: int, dtype: torch.dtype) -> None:
    layout = layout_of([length for length in LENGTHS if length > 2 * skip])
    rows = (3 + randn(layout.rows, width)).to(dtype)
    bounds = layout.cu_seqlens
    exact = torch.stack(
        [
            part[skip : len(part) - skip].double().mean(0)
            for part in torch.split(rows, layout.lengths.tolist())
        ]
    )
    plain = segment_means.segment_means(rows, bounds, skip)
    actual = triton("segment_means")(rows, bounds, skip)
    assert actual.dtype == torch.float32
    assert ratio(actual, plain, exact) < CLOSE
    assert ratio(triton("segment_means")(rows, bounds, 1 - skip)[5:], plain[5:], exact[5:]) > CLOSE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_bits_of_segment_means_depend_on_the_segment_alone(dtype: torch.dtype) -> None:
    lengths = [length for length in LENGTHS if length > 2]
    layout = layout_of(lengths)
    rows = randn(layout.rows, 320).to(dtype)
    together = triton("segment_means")(rows, layout.cu_seqlens, 1)
    for index, part in enumerate(torch.split(rows, lengths)):
        alone = triton("segment_means")(part, layout_of([len(part)]).cu_seqlens, 1)
        assert torch.equal(alone[0], together[index])
    rows[: lengths[0]] = math.nan
    assert torch.equal(triton("segment_means")(rows, layout.cu_seqlens, 1)[1:], together[1:])


# ---- fp8 --------------------------------------------------------------------------------------------------------


def widened(quantised: tuple[Tensor, Tensor]) -> Tensor:
    rows, scales = quantised
    return rows.double() * scales.double()[:, None]


@needs_fp8
@widths
@dtypes
def test_rows_in_fp8_are_as_exact_as_torchs(width: int, dtype: torch.dtype) -> None:
    weight, bias = norm_weights(width, dtype)
    y = randn(40, width, seed=1, dtype=dtype)
    x = randn(40, width)
    ours, theirs = x.clone(), x.clone()
    actual = triton("add_norm_quantise")(ours, y, weight, bias, EPS)
    plain = add_norm.add_norm_quantise(theirs, y, weight, bias, EPS)
    assert torch.equal(ours, theirs)
    assert ratio(widened(actual), widened(plain), exact_norm(ours, weight, bias)) < CLOSE
    fed = randn(40, 4 * width, dtype=dtype)
    for name, exact in (("gelu_quantise", exact_gelu(fed)), ("quantise_rows", fed.double())):
        plain = getattr(quantise, name)(fed)
        assert ratio(widened(triton(name)(fed)), widened(plain), exact) < CLOSE


@needs_fp8
def test_the_bound_of_fp8_rows_is_crossed_by_one_scale_for_all_rows() -> None:
    x = randn(40, 1280)
    x[0] *= 1e5
    scale = x.abs().max() / quantise.LARGEST
    wrong = (x / scale).to(quantise.FP8).double() * scale.double()
    assert ratio(wrong[1:], widened(quantise.quantise_rows(x))[1:], x[1:].double()) > CLOSE


@needs_fp8
@dtypes
def test_the_bits_of_fp8_rows_depend_on_the_row_alone(dtype: torch.dtype) -> None:
    x = randn(3000, 1280, dtype=dtype)
    together = triton("gelu_quantise")(x)
    for part in (slice(0, 1), slice(5, 8), slice(2999, 3000)):
        for alone, every in zip(triton("gelu_quantise")(x[part].contiguous()), together, strict=True):
            assert torch.equal(alone.view(torch.uint8), every[part].contiguous().view(torch.uint8))


@needs_fp8
def test_a_row_of_zeros_stays_zeros_and_a_nan_stays_in_its_row() -> None:
    x = randn(4, 320, dtype=torch.float16)
    x[1], x[2, 7] = 0, math.nan
    rows = widened(triton("quantise_rows")(x))
    assert torch.equal(rows[1], torch.zeros_like(rows[1]))
    assert rows.isnan().any(dim=1).tolist() == [False, False, True, False]


@needs_fp8
@dtypes
def test_an_fp8_linear_is_its_plain_form_and_its_bits_depend_on_the_row_alone(dtype: torch.dtype) -> None:
    reason = fp8_refusal(DEVICE, dtype, 1280)
    if reason:
        pytest.skip(reason)
    linear = Fp8Linear.quantise(randn(3840, 1280) / 36, randn(3840, dtype=dtype))
    x = randn(20_000, 1280, seed=1, dtype=dtype)
    rows, scales = quantise.quantise_rows(x)
    together = linear(rows, scales)
    assert together.dtype == dtype
    exact = widened((rows, scales)) @ (linear.weight.double() * linear.scales.double()) + linear.bias.double()
    # The product adds up with fewer bits than fp32; what quantising loses is far more.
    full = randn(20_000, 1280, seed=1).double() @ (randn(3840, 1280).double().t() / 36) + linear.bias.double()
    assert error(together, exact) < 0.1 * error(linear.plain(rows, scales), full)
    for part in (slice(0, 256), slice(4000, 4511), slice(3, 9000)):
        assert torch.equal(linear(rows[part].clone(), scales[part].clone()), together[part])
