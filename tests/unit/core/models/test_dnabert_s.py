"""The packed DNABERT-S against a straightforward one that takes a sequence at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from tests.support.models_fixture import (
    DNABERT_S_CONFIG,
    by_segment,
    error_ratio,
    packed,
    random_dna,
    random_dnabert_s,
    relative_l2,
)
from virnucpro_core.bundle.manifest import DnabertSConfig
from virnucpro_core.models.attention import BackendUnavailable
from virnucpro_core.models.dnabert_s import DnabertS, alibi_slopes

LENGTHS = (2, 33, 1, 32, 150, 7, 64)


def reference_slopes(heads: int) -> list[float]:
    """As the ALiBi paper's code has it, recursively."""
    if math.log2(heads).is_integer():
        first = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [first * first**index for index in range(heads)]
    below = 2 ** math.floor(math.log2(heads))
    return reference_slopes(below) + reference_slopes(2 * below)[0::2][: heads - below]


def reference(model: DnabertS, ids: NDArray[np.int32], dtype: torch.dtype = torch.float64) -> Tensor:
    """Last hidden states [tokens, dim] of one sequence, all in one type, from the state dict alone."""
    weights = {name: value.to(dtype) for name, value in model.state_dict().items()}
    config = model.config
    size = config.dim // config.heads

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (config.dim,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    words = weights["embeddings.word_embeddings.weight"][torch.from_numpy(ids).long()]
    x = norm(words + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    place = torch.arange(len(ids), dtype=dtype)
    distance = (place[:, None] - place[None, :]).abs()
    for number in range(config.layers):
        name = f"encoder.layer.{number}"
        qkv = linear(
            x, weights[f"{name}.attention.self.Wqkv.weight"], weights[f"{name}.attention.self.Wqkv.bias"]
        )
        q, k, v = qkv.split(config.dim, dim=1)
        heads = []
        for head, slope in enumerate(reference_slopes(config.heads)):
            part = slice(head * size, (head + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size) - slope * distance
            heads.append(scores.softmax(dim=1) @ v[:, part])
        dense = f"{name}.attention.output.dense"
        attended = linear(torch.cat(heads, dim=1), weights[f"{dense}.weight"], weights[f"{dense}.bias"])
        x = norm(attended + x, f"{name}.attention.output.LayerNorm")
        gate, value = linear(x, weights[f"{name}.mlp.gated_layers.weight"]).split(config.intermediate, dim=1)
        hidden = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2))) * value
        out = linear(hidden, weights[f"{name}.mlp.wo.weight"], weights[f"{name}.mlp.wo.bias"])
        x = norm(out + x, f"{name}.mlp.layernorm")
    return x


def run(model: DnabertS, sequences: list[NDArray[np.int32]]) -> list[Tensor]:
    with torch.inference_mode():
        return by_segment(model.forward_packed(*packed(sequences)), sequences)


@pytest.mark.parametrize(
    "config",
    [
        DNABERT_S_CONFIG,
        DnabertSConfig(layers=2, dim=96, heads=12, intermediate=64, vocab=32),
        DnabertSConfig(layers=1, dim=64, heads=4, intermediate=48, vocab=32),
        DnabertSConfig(layers=1, dim=64, heads=1, intermediate=48, vocab=32),
    ],
    ids=lambda config: f"{config.heads}-heads",
)
def test_every_token_is_the_references(config: DnabertSConfig) -> None:
    model = random_dnabert_s(config)
    sequences = random_dna(LENGTHS)
    for sequence, actual in zip(sequences, run(model, sequences), strict=True):
        assert relative_l2(actual, reference(model, sequence)) < 1e-5


def test_slopes_of_the_published_model() -> None:
    expected = [2.0**-power for power in range(1, 9)] + [2.0**-power for power in (0.5, 1.5, 2.5, 3.5)]
    assert alibi_slopes(12) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("heads", range(1, 33))
def test_slopes_of_any_number_of_heads(heads: int) -> None:
    assert alibi_slopes(heads) == pytest.approx(reference_slopes(heads), rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 80), min_size=1, max_size=10), data=st.data())
def test_a_sequences_bits_do_not_depend_on_its_batch(lengths: list[int], data: st.DataObject) -> None:
    model = random_dnabert_s()
    sequences = random_dna(lengths)
    together = run(model, sequences)
    order = data.draw(st.permutations(range(len(sequences))))
    for index, rows in zip(order, run(model, [sequences[index] for index in order]), strict=True):
        assert torch.equal(rows, together[index])
    chosen = data.draw(st.integers(0, len(sequences) - 1))
    assert torch.equal(run(model, [sequences[chosen]])[0], together[chosen])


def test_the_slopes_are_not_rounded_when_the_model_is_cast() -> None:
    model = random_dnabert_s()
    sequences = random_dna(LENGTHS)
    truth = torch.cat([reference(model, sequence) for sequence in sequences])
    rounded = torch.cat([reference(model, sequence, torch.bfloat16) for sequence in sequences])
    actual = torch.cat(run(model.bfloat16(), sequences))
    assert model._slopes_on(torch.device("cpu")).dtype == torch.float32
    assert error_ratio(actual, rounded, truth) < 2


def test_every_weight_but_the_unused_token_type_gets_a_gradient() -> None:
    model = random_dnabert_s()
    model.forward_packed(*packed(random_dna(LENGTHS)))[:, 0].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        assert parameter.grad.isfinite().all(), name


def test_the_names_are_the_checkpoints() -> None:
    names = set(DnabertS(DnabertSConfig(1, 16, 2, 24, 9)).state_dict())
    prefix = "encoder.layer.0"
    assert names == {
        "embeddings.word_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "embeddings.LayerNorm.weight",
        "embeddings.LayerNorm.bias",
        f"{prefix}.attention.self.Wqkv.weight",
        f"{prefix}.attention.self.Wqkv.bias",
        f"{prefix}.attention.output.dense.weight",
        f"{prefix}.attention.output.dense.bias",
        f"{prefix}.attention.output.LayerNorm.weight",
        f"{prefix}.attention.output.LayerNorm.bias",
        f"{prefix}.mlp.gated_layers.weight",
        f"{prefix}.mlp.wo.weight",
        f"{prefix}.mlp.wo.bias",
        f"{prefix}.mlp.layernorm.weight",
        f"{prefix}.mlp.layernorm.bias",
    }


def test_an_id_outside_the_vocabulary_is_named() -> None:
    model = random_dnabert_s()
    ids = torch.tensor([1, 2, 32, 3])
    with pytest.raises(ValueError, match=r"input_ids\[2\] is 32, outside the vocabulary of 32"):
        model.forward_packed(ids, torch.tensor([0, 4], dtype=torch.int32), 4)


def test_a_named_back_end_that_cannot_serve_is_an_error() -> None:
    model = DnabertS(DNABERT_S_CONFIG, backend="varlen")
    with pytest.raises(BackendUnavailable, match="no ALiBi"):
        run(model, random_dna([4]))
