"""A precision decides what computes the encoders' products, and what its results are held against."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.models_fixture import (
    ESM2_SHAPES,
    packed,
    random_bundle,
    random_dna,
    random_dnabert_s,
    random_esm2,
    random_frames,
    random_proteins,
)
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.models.device import EngineError
from virnucpro_core.models.engine import Engine
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.precision import PRECISIONS, Precision, Tolerance, same_linear
from virnucpro_core.models.self_test import SelfTestFailed

LENGTHS = (5, 41, 3, 90)
LOOSE, TIGHT = Tolerance(0.2, 0.2, 0.2), Tolerance(1e-4, 0.2, 0.2)


class Float8Linear(nn.Module):
    """Weights in 8 bits with one scale for each row, products in the type of the activations."""

    made = 0

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        type(self).made += 1
        largest = torch.finfo(torch.float8_e4m3fn).max
        self.scale = linear.weight.abs().amax(dim=1, keepdim=True) / largest
        self.weight = (linear.weight / self.scale).to(torch.float8_e4m3fn)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def float8(monkeypatch: pytest.MonkeyPatch) -> Precision:
    """One more precision, as one object."""
    precision = Precision("float8", torch.float32, LOOSE, linear=Float8Linear)
    monkeypatch.setitem(PRECISIONS, "float8", precision)
    monkeypatch.setattr(Float8Linear, "made", 0)
    return precision


def test_one_more_object_is_one_more_precision(bundle: Bundle, float8: Precision) -> None:
    engine = Engine(bundle, device="cpu", precision="float8")
    config = bundle.manifest
    assert Float8Linear.made == 4 * config.esm2.layers + 5 * config.dnabert_s.layers
    assert (engine.info.precision, engine.precision) == ("float8", float8)
    frames = random_frames(6)
    plain = Engine(bundle, device="cpu", precision="fp32").features(frames)
    features = engine.features(frames)
    split = config.dnabert_s.dim
    for part in (slice(None, split), slice(split, None)):
        distance = np.linalg.norm((features - plain)[:, part], axis=1) / np.linalg.norm(
            plain[:, part], axis=1
        )
        assert (distance > 1e-4).all()
        assert (distance < 0.2).all()


def test_the_self_test_holds_it_against_the_unchanged_weights(
    bundle: Bundle, float8: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Engine(bundle, device="cpu", precision="float8").info.self_test
    assert measured is not None
    assert measured.per_token > TIGHT.self_test
    assert measured.tolerance == LOOSE.self_test
    monkeypatch.setitem(PRECISIONS, "float8", Precision("float8", torch.float32, TIGHT, linear=Float8Linear))
    with pytest.raises(SelfTestFailed, match="allowed 1e-04"):
        Engine(bundle, device="cpu", precision="float8")


def test_the_standard_path_keeps_its_own_products(bundle: Bundle, float8: Precision) -> None:
    frames, start = random_frames(3), bundle.manifest.dnabert_s.dim
    standard = Engine(bundle, device="cpu", precision="float8", v1_attention=True).features(frames)
    plain = Engine(bundle, device="cpu", precision="fp32", v1_attention=True).features(frames)
    assert np.array_equal(standard[:, start:], plain[:, start:])
    assert not np.array_equal(standard[:, :start], plain[:, :start])


def test_the_products_follow_a_cast() -> None:
    proteins = random_proteins(LENGTHS)
    cast = ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[0]), linear=Float8Linear).bfloat16()
    built = random_esm2(ESM2_SHAPES[0])
    with torch.inference_mode():
        result = cast.forward_packed(*packed(proteins))["representations"][cast.num_layers]
        original = ESM2WithFlashAttention(built, linear=Float8Linear)
        expected = original.forward_packed(*packed(proteins))["representations"][original.num_layers]
    assert result.dtype == torch.bfloat16
    assert ((result.float() - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.2


def test_the_linear_layer_itself_gives_dnabert_s_the_same_bits() -> None:
    sequences = random_dna((5, 41, 300))
    untouched, placed = random_dnabert_s(), random_dnabert_s()
    placed.use_linear(same_linear)
    with torch.inference_mode():
        assert torch.equal(
            placed.forward_packed(*packed(sequences)), untouched.forward_packed(*packed(sequences))
        )


def test_a_device_that_a_precision_cannot_use_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="precision fp16 needs a GPU: on a CPU use fp32 or bf16"):
        Engine(bundle, device="cpu", precision="fp16")
    with pytest.raises(EngineError, match="unknown precision 'fp4': use auto, fp32, fp16 or bf16"):
        Engine(bundle, device="cpu", precision="fp4")
