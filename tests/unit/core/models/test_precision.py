"""A precision decides which products are in fp8, and what its results are held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.models_fixture import (
    ESM2_SHAPES,
    packed,
    random_bundle,
    random_esm2,
    random_frames,
    random_proteins,
    relative_l2,
)
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.models.attention import BackendUnavailable
from virnucpro_core.models.device import EngineError
from virnucpro_core.models.engine import Engine
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention, Products
from virnucpro_core.models.kernels import add_norm, quantise
from virnucpro_core.models.kernels.fp8 import Fp8Linear
from virnucpro_core.models.kernels.quantise import quantise_rows
from virnucpro_core.models.precision import FP8, FP8_FFN, FP16, FP32, PRECISIONS, Precision, Tolerance
from virnucpro_core.models.self_test import SelfTestFailed
from virnucpro_core.scoring.model import SelfTestResult

LENGTHS = (5, 41, 3, 90)
fp8_settings = pytest.mark.parametrize("precision", [FP8, FP8_FFN], ids=lambda each: each.name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def on_cpu(precision: Precision, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Precision:
    """The precision as a CPU can compute it: by the plain form of the products, in fp32 beside them."""
    changed = replace(precision, dtype=torch.float32, refusal=FP32.refusal, **changes)
    monkeypatch.setitem(PRECISIONS, precision.name, changed)
    return changed


def rounded(x: Tensor) -> Tensor:
    """Through fp8, one scale a row."""
    rows, scales = quantise_rows(x)
    return rows.float() * scales[:, None]


def run(model: ESM2WithFlashAttention, lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    with torch.inference_mode():
        return model.forward_packed(*packed(random_proteins(lengths)))["representations"][model.num_layers]


@pytest.mark.parametrize("fp8", [("qkv",), ("fc1",), ("fc2",), ("qkv", "fc1", "fc2"), ()])
def test_the_products_that_are_named_are_in_fp8_and_no_others(fp8: tuple[str, ...]) -> None:
    """Against the same forward with weights and activations rounded around each of the products."""
    model = random_esm2(ESM2_SHAPES[1])
    actual = run(ESM2WithFlashAttention(model, fp8=fp8))
    expected = random_esm2(ESM2_SHAPES[1]).requires_grad_(False)
    for layer in expected.layers:
        attention = layer.self_attn
        parts = {
            "qkv": [attention.q_proj, attention.k_proj, attention.v_proj],
            "fc1": [layer.fc1],
            "fc2": [layer.fc2],
        }
        for name in fp8:
            for part in parts[name]:
                part.weight.copy_(rounded(part.weight))
    wrapped = ESM2WithFlashAttention(expected)
    make = wrapped._layer_products

    def on_rounded(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: product(rounded(x))

    def rounding(index: int) -> Products:
        products = make(index)
        return products._replace(**{name: on_rounded(getattr(products, name)) for name in fp8})

    wrapped._layer_products = rounding  # type: ignore[method-assign]
    # A value near the middle of two steps of fp8 may go to either: 1/16 of it.
    assert relative_l2(actual, run(wrapped)) < (5e-3 if fp8 else 1e-6)
    if fp8:
        assert relative_l2(actual, run(ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[1])))) > 1e-2


@fp8_settings
def test_a_proteins_bits_do_not_depend_on_its_batch(precision: Precision) -> None:
    model = ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[2]), fp8=precision.fp8)
    together = torch.split(run(model), LENGTHS)
    for index, length in enumerate(LENGTHS):
        protein = random_proteins(LENGTHS)[index]
        with torch.inference_mode():
            alone = model.forward_packed(*packed([protein]))["representations"][model.num_layers]
        assert len(alone) == length
        assert torch.equal(alone, together[index])


@fp8_settings
def test_every_layers_representation_is_there(precision: Precision) -> None:
    model = ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[1]), fp8=precision.fp8)
    plain = ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[1]))
    with torch.inference_mode():
        ours, theirs = (
            each.forward_packed(*packed(random_proteins(LENGTHS)), repr_layers=[0, 1, 2, 3])[
                "representations"
            ]
            for each in (model, plain)
        )
    assert torch.equal(ours[0], theirs[0])
    for layer in (1, 2, 3):
        assert 1e-3 < relative_l2(ours[layer], theirs[layer]) < 0.3


@fp8_settings
def test_an_engine_stamps_it_and_stays_near_fp32(
    bundle: Bundle, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu(precision, monkeypatch)
    engine = Engine(bundle, device="cpu", precision=precision.name)
    assert engine.info.precision == engine.info.as_dict()["precision"] == precision.name
    assert engine.info.self_test is not None
    assert 1e-3 < engine.info.self_test.per_token < precision.tolerance.self_test
    frames, split = random_frames(6), bundle.manifest.dnabert_s.dim
    plain, features = (each.features(frames) for each in (Engine(bundle, "cpu", "fp32"), engine))
    assert np.array_equal(features[:, :split], plain[:, :split])  # DNABERT-S is as it was
    distance = np.linalg.norm((features - plain)[:, split:], axis=1) / np.linalg.norm(
        plain[:, split:], axis=1
    )
    assert (distance > 1e-4).all()
    assert (distance < precision.tolerance.features).all()


def test_a_precision_beyond_its_tolerance_does_not_start(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu(FP8, monkeypatch, tolerance=Tolerance(1e-4, 0.2, 0.2))
    with pytest.raises(SelfTestFailed, match="allowed 1e-04 and 1e-04"):
        Engine(bundle, device="cpu", precision="fp8")


@pytest.mark.parametrize(
    ("per_token", "pooled", "passed"),
    [
        (0.04, 0.01, True),
        (0.041, 0.001, False),
        (0.01, 0.011, False),
        (math.nan, 0.001, False),
        (0.001, math.nan, False),
    ],
)
def test_in_16_bits_a_token_may_be_off_four_times_as_far_as_a_pooled_vector(
    per_token: float, pooled: float, passed: bool
) -> None:
    allowed = FP16.tolerance
    assert SelfTestResult(per_token, pooled, allowed.self_test, allowed.self_test_token).passed is passed


@pytest.mark.parametrize("precision", [FP32, FP8_FFN, FP8], ids=lambda each: each.name)
def test_in_the_others_no_further(precision: Precision) -> None:
    assert precision.tolerance.self_test_token == precision.tolerance.self_test


@fp8_settings
def test_no_second_copy_of_quantised_weights_is_kept(
    bundle: Bundle, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu(precision, monkeypatch)
    engine = Engine(bundle, device="cpu", precision=precision.name)
    layer = engine.esm2.model.layers[0]
    weights = {
        "qkv": layer.self_attn.q_proj.weight,
        "fc1": layer.fc1.weight,
        "fc2": layer.fc2.weight,
        "out": layer.self_attn.out_proj.weight,
    }
    assert {name for name, weight in weights.items() if weight.is_meta} == precision.fp8
    with pytest.raises(BackendUnavailable, match="standard path's weights were released"):
        engine.esm2.on_path(v1=True).forward_packed(*packed(random_proteins(LENGTHS)))
    with pytest.raises(RuntimeError, match="neither moved nor cast"):
        engine.esm2.half()


@fp8_settings
def test_the_standard_path_beside_it_is_the_16_bit_one_and_says_so(
    bundle: Bundle, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu(precision, monkeypatch)
    engine = Engine(bundle, device="cpu", precision=precision.name)
    standard, packed_path = engine.on_path(v1=True), engine.on_path(v1=False)
    frames = random_frames(3)
    expected = Engine(bundle, device="cpu", precision="fp32", v1_attention=True)
    assert np.array_equal(standard.features(frames), expected.features(frames))
    assert (standard.info.attention, standard.info.precision) == (
        "v1",
        "fp32",
    )  # of the dtype beside fp8, here fp32
    assert np.array_equal(packed_path.features(frames), engine.features(frames))
    assert packed_path.info.precision == precision.name


@fp8_settings
def test_the_standard_path_cannot_be_asked_for_in_fp8(
    bundle: Bundle, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu(precision, monkeypatch)
    with pytest.raises(
        EngineError,
        match=rf"precision {precision.name} is of the packed attention.*use fp16, or leave the standard attention off",
    ):
        Engine(bundle, device="cpu", precision=precision.name, v1_attention=True)


def test_fp8_has_no_gradients() -> None:
    model = ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[0]), fp8=["fc1"])
    with pytest.raises(RuntimeError, match=r"no gradients: call within torch\.inference_mode"):
        model.forward_packed(*packed(random_proteins(LENGTHS)))


def test_the_products_follow_a_cast() -> None:
    original = ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[0]), fp8=FP8.fp8)
    cast = ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[0]), fp8=FP8.fp8).bfloat16()
    result = run(cast)
    assert result.dtype == torch.bfloat16
    assert relative_l2(result, run(original)) < 0.2


def test_another_product_cannot_be_in_fp8() -> None:
    with pytest.raises(ValueError, match=r"but fc1, fc2, qkv: \['out'\]"):
        ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[0]), fp8=["out", "fc1"])


def test_the_plain_steps_before_a_product_in_fp8_never_round_to_16_bits() -> None:
    x, y = torch.randn(4, 64), torch.randn(4, 64).half()
    weight, bias = torch.rand(64).half(), torch.randn(64).half()
    stream = x.clone()
    rows, scales = add_norm.add_norm_quantise(stream, y, weight, bias, 1e-5)
    assert torch.equal(stream, x + y)
    expected = quantise_rows(torch.nn.functional.layer_norm(x + y, (64,), weight.float(), bias.float(), 1e-5))
    assert torch.equal(rows.float(), expected[0].float())
    assert torch.equal(scales, expected[1])
    rows, scales = quantise.gelu_quantise(y)
    expected = quantise_rows(torch.nn.functional.gelu(y.float()))
    assert torch.equal(rows.float(), expected[0].float())
    assert torch.equal(scales, expected[1])


def test_a_linear_layer_keeps_nothing_but_its_bias() -> None:
    linear = torch.nn.Linear(32, 48)
    quantised = Fp8Linear.of(linear)
    assert quantised.weight.dtype == torch.float8_e4m3fn
    assert torch.equal(quantised.bias, linear.bias)
    x = torch.randn(7, 32)
    out = quantised(*quantise_rows(x))
    assert 1e-3 < relative_l2(out, linear(x).detach()) < 0.2


@fp8_settings
def test_a_cpu_and_an_old_gpu_refuse_fp8_with_what_to_use(
    bundle: Bundle, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        EngineError, match=f"precision {precision.name} needs a GPU: on a CPU use fp32 or bf16"
    ):
        Engine(bundle, device="cpu", precision=precision.name)
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert precision.refusal(gpu, 1280) == "needs a GPU of compute capability 9.0 or higher: use fp16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert precision.refusal(gpu, 24) == "needs a width that is a multiple of 16, not 24: use fp16"


def test_a_device_that_a_precision_cannot_use_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="precision fp16 needs a GPU: on a CPU use fp32 or bf16"):
        Engine(bundle, device="cpu", precision="fp16")
    with pytest.raises(
        EngineError, match="unknown precision 'fp4': use auto, fp32, fp16, bf16, fp8-ffn or fp8"
    ):
        Engine(bundle, device="cpu", precision="fp4")
