"""Pooling and the classifier: the right rows, in fp32, whatever the neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.models_fixture import layout_of, relative_l2
from virnucpro_core.models.classifier import Head
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.pooling import frame_features, mean_of_residues, mean_of_tokens

DIM = 8


def layout(lengths: list[int]) -> PackedLayout:
    return layout_of([np.zeros(length, dtype=np.int32) for length in lengths])


def rows(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)) + 1


@given(lengths=st.lists(st.integers(3, 60), min_size=1, max_size=20))
def test_means_are_those_of_each_segments_own_rows(lengths: list[int]) -> None:
    x = rows(sum(lengths))
    parts = torch.split(x.double(), lengths)
    batch = layout(lengths)
    assert relative_l2(mean_of_tokens(x, batch), torch.stack([part.mean(0) for part in parts])) < 1e-6
    inner = torch.stack([part[1:-1].mean(0) for part in parts])
    assert relative_l2(mean_of_residues(x, batch), inner) < 1e-6


@pytest.mark.parametrize("pool", [mean_of_tokens, mean_of_residues])
def test_bits_do_not_depend_on_the_neighbours(pool: Callable[[Tensor, PackedLayout], Tensor]) -> None:
    mine = rows(50)
    alone = pool(mine, layout([50]))
    for before, after in ([[3], [70]], [[200, 5], []], [[], [9] * 40]):
        x = torch.cat([rows(sum(before), 1), mine, rows(sum(after), 2)])
        assert torch.equal(pool(x, layout([*before, 50, *after]))[len(before)], alone[0])


def test_not_a_number_stays_with_its_own_segment() -> None:
    x = rows(12)
    x[5] = torch.nan
    pooled = mean_of_tokens(x, layout([4, 4, 4]))
    assert pooled.isnan().any(dim=1).tolist() == [False, True, False]


def test_16_bit_values_are_summed_in_fp32() -> None:
    x = torch.full((4000, DIM), 300.0, dtype=torch.float16)  # the sum is far over what fp16 holds
    pooled = mean_of_tokens(x, layout([4000]))
    assert pooled.dtype == torch.float32
    assert torch.allclose(pooled, torch.tensor(300.0))


def test_gradients_go_to_the_residues_alone() -> None:
    x = rows(9).requires_grad_()
    mean_of_residues(x, layout([4, 5])).sum().backward()
    expected = torch.tensor([0, 1 / 2, 1 / 2, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0])
    assert x.grad is not None
    assert torch.allclose(x.grad, expected[:, None].expand(9, DIM))


def test_a_protein_without_residues_is_refused() -> None:
    with pytest.raises(ValueError, match="segment 1 has no residue"):
        mean_of_residues(rows(7), layout([5, 2]))


def test_dnabert_s_comes_first_in_the_features() -> None:
    features = frame_features(torch.zeros(2, 3), torch.ones(2, 2))
    assert features.tolist() == [[0, 0, 0, 1, 1]] * 2


def random_head(seed: int = 0) -> Head:
    torch.manual_seed(seed)
    head = Head(40, 16)
    head.norm.running_mean.normal_()
    head.norm.running_var.uniform_(0.5, 2)
    return head.eval()


def test_the_head_is_linear_norm_relu_linear() -> None:
    head = random_head()
    x = torch.randn(150, 40)
    weights = {name: value.double() for name, value in head.state_dict().items()}
    hidden = x.double() @ weights["hidden.weight"].T + weights["hidden.bias"]
    scaled = (hidden - weights["norm.running_mean"]) / (weights["norm.running_var"] + 1e-5).sqrt()
    active = (scaled * weights["norm.weight"] + weights["norm.bias"]).clamp(min=0)
    expected = active @ weights["output.weight"].T + weights["output.bias"]
    with torch.inference_mode():
        assert relative_l2(head(x), expected) < 1e-5


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 200), data=st.data())
def test_a_frames_logits_do_not_depend_on_the_others(count: int, data: st.DataObject) -> None:
    head = random_head()
    x = torch.randn(count, 40, generator=torch.Generator().manual_seed(count))
    with torch.inference_mode():
        together = head(x)
        order = data.draw(st.permutations(range(count)))
        assert torch.equal(head(x[order]), together[order])
        assert torch.equal(head(x[:1]), together[:1])


def test_training_normalises_by_the_batch_and_never_by_padding() -> None:
    head = random_head().train()
    head.dropout.p = 0.0
    x = torch.randn(5, 40)
    head(x).sum().backward()
    hidden = torch.nn.functional.linear(x, head.hidden.weight, head.hidden.bias)
    fresh = random_head()
    expected = 0.9 * fresh.norm.running_mean + 0.1 * hidden.mean(0)
    assert torch.allclose(head.norm.running_mean, expected, atol=1e-6)
