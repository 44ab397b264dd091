"""The packed ESM-2 against fair-esm's own forward on the same random weights."""

from __future__ import annotations

import copy

import esm
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.support.models_fixture import (
    ESM2_SHAPES,
    UNEQUAL_LENGTHS,
    by_segment,
    error_ratio,
    layout_of,
    packed,
    random_esm2,
    random_proteins,
    relative_l2,
)
from virnucpro_core.bundle.manifest import Esm2Config
from virnucpro_core.models.attention import BackendUnavailable
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.layout import PADDED_TOKENS, WIDTH_STEP, PackedLayout
from virnucpro_core.models.pooling import mean_of_residues

SHAPE = ESM2_SHAPES[1]
TOLERANCE = 1e-5
"""Of fp32, absolute; the other bounds are multiples of fair-esm's own error."""

shapes = pytest.mark.parametrize("shape", ESM2_SHAPES, ids=lambda c: f"{c.layers}x{c.dim}x{c.heads}")
masked = pytest.mark.parametrize("masks", [False, True], ids=["plain", "masked"])
path = pytest.mark.parametrize("v1", [False, True], ids=["packed", "v1"])


def alone(model: esm.ESM2, protein: NDArray[np.int32], layers: range) -> dict[int, Tensor]:
    """fair-esm's own forward of one protein: {layer: [tokens, dim]}."""
    with torch.inference_mode():
        tokens = torch.from_numpy(protein)[None].long()
        result = model(tokens, repr_layers=list(layers))["representations"]
    return {layer: rows[0] for layer, rows in result.items()}


def run(wrapper: ESM2WithFlashAttention, proteins: list[NDArray[np.int32]], v1: bool = False) -> list[Tensor]:
    """Last-layer representations of each protein, packed together."""
    with torch.inference_mode():
        rows = wrapper.forward_packed(*packed(proteins), v1_compatible=v1)["representations"][
            wrapper.num_layers
        ]
    return by_segment(rows, proteins)


@path
@masked
@shapes
def test_every_layer_of_every_token_is_fair_esms(shape: Esm2Config, masks: bool, v1: bool) -> None:
    model = random_esm2(shape)
    proteins = random_proteins(UNEQUAL_LENGTHS, masks=masks)
    layers = range(shape.layers + 1)
    expected = [alone(model, protein, layers) for protein in proteins]
    wrapper = ESM2WithFlashAttention(model)
    with torch.inference_mode():
        result = wrapper.forward_packed(*packed(proteins), repr_layers=layers, v1_compatible=v1)[
            "representations"
        ]
    assert set(result) == set(layers)
    layout = layout_of(proteins)
    for layer in layers:
        wanted = torch.cat([protein[layer] for protein in expected])
        assert result[layer].shape == (layout.total, shape.dim)
        assert relative_l2(result[layer], wanted) < TOLERANCE, f"layer {layer}"
        pooled = mean_of_residues(result[layer], layout), mean_of_residues(wanted, layout)
        assert relative_l2(*pooled) < TOLERANCE, f"layer {layer}, pooled"


def test_the_comparison_would_see_left_out_token_dropout() -> None:
    model = random_esm2(SHAPE)
    proteins = random_proteins(UNEQUAL_LENGTHS)
    expected = [alone(model, protein, range(SHAPE.layers, SHAPE.layers + 1)) for protein in proteins]
    model.token_dropout = False
    actual = run(ESM2WithFlashAttention(model), proteins)
    wanted = torch.cat([protein[SHAPE.layers] for protein in expected])
    assert relative_l2(torch.cat(actual), wanted) > 100 * TOLERANCE


@shapes
def test_v1_is_bitwise_fair_esms_padded_forward_of_the_same_sub_batch(shape: Esm2Config) -> None:
    model = random_esm2(shape)
    untouched = copy.deepcopy(model)
    proteins = random_proteins([*UNEQUAL_LENGTHS, *[40] * 120])
    actual = run(ESM2WithFlashAttention(model), proteins, v1=True)
    groups: dict[int, list[int]] = {}
    for index, protein in enumerate(proteins):
        groups.setdefault(-(-len(protein) // WIDTH_STEP) * WIDTH_STEP, []).append(index)
    for width, members in groups.items():
        step = max(1, PADDED_TOKENS // width)
        for first in range(0, len(members), step):
            batch = members[first : first + step]
            tokens = torch.full((len(batch), width), model.padding_idx)
            for row, index in enumerate(batch):
                tokens[row, : len(proteins[index])] = torch.from_numpy(proteins[index])
            with torch.inference_mode():
                result = untouched(tokens, repr_layers=[shape.layers])["representations"][shape.layers]
            for row, index in enumerate(batch):
                assert torch.equal(actual[index], result[row, : len(proteins[index])]), f"protein {index}"


def test_v1_sub_batches_are_bounded_and_a_long_protein_pads_no_other() -> None:
    widths: list[tuple[int, int]] = []
    model = random_esm2(ESM2_SHAPES[0])  # the smallest: 4500 tokens attend to each other
    model.register_forward_pre_hook(lambda _, inputs: widths.append(tuple(inputs[0].shape)))
    proteins = random_proteins([1500, *[10] * 300, 4500])
    run(ESM2WithFlashAttention(model), proteins, v1=True)
    assert widths[-2:] == [(1, 1504), (1, 4512)]
    assert [width for _, width in widths[:-2]] == [32] * 3
    assert sum(count for count, _ in widths) == len(proteins)
    assert all(count * width <= PADDED_TOKENS for count, width in widths[:-1])


@pytest.mark.parametrize(
    ("v1_attention", "v1_compatible", "takes_v1"),
    [(None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_v1_attention_wins_over_the_parameter(
    v1_attention: bool | None, v1_compatible: bool, takes_v1: bool
) -> None:
    model = random_esm2(SHAPE)
    wrapper = ESM2WithFlashAttention(model, v1_attention=v1_attention)
    calls: list[None] = []
    model.register_forward_pre_hook(lambda *_: calls.append(None))
    run(wrapper, random_proteins([9]), v1=v1_compatible)
    assert bool(calls) is takes_v1
    assert wrapper.takes_v1_path(v1_compatible) is takes_v1


@path
@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(3, 90), min_size=1, max_size=12), data=st.data())
def test_a_proteins_bits_do_not_depend_on_its_batch(
    v1: bool, lengths: list[int], data: st.DataObject
) -> None:
    wrapper = ESM2WithFlashAttention(random_esm2(SHAPE))
    proteins = random_proteins(lengths)
    together = run(wrapper, proteins, v1)
    order = data.draw(st.permutations(range(len(proteins))))
    for index, rows in zip(order, run(wrapper, [proteins[index] for index in order], v1), strict=True):
        assert torch.equal(rows, together[index])
    chosen = data.draw(st.integers(0, len(proteins) - 1))
    assert torch.equal(run(wrapper, [proteins[chosen]], v1)[0], together[chosen])
    others = [*proteins, *random_proteins([200, 33, 5], seed=1)]
    others[chosen - 1] = random_proteins([77], seed=2)[0]
    if len(proteins) > 1:
        assert torch.equal(run(wrapper, others, v1)[chosen], together[chosen])


@path
def test_a_poisoned_neighbour_poisons_no_other_protein(v1: bool) -> None:
    model = random_esm2(SHAPE)
    model.embed_tokens.weight.data[23] = torch.nan
    wrapper = ESM2WithFlashAttention(model)
    proteins = [np.where(ids == 23, 5, ids).astype(np.int32) for ids in random_proteins([20, 30, 40])]
    expected = run(wrapper, proteins, v1)
    proteins[1][4] = 23
    actual = run(wrapper, proteins, v1)
    assert actual[1].isnan().any()
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[2], expected[2])


def test_the_projections_are_views_of_one_matrix() -> None:
    model = random_esm2(SHAPE)
    untouched = copy.deepcopy(model)
    ESM2WithFlashAttention(model)
    for layer, before in zip(model.layers, untouched.layers, strict=True):
        attention, parts = layer.self_attn, ("q_proj", "k_proj", "v_proj")
        for kind, size in (("weight", SHAPE.dim**2), ("bias", SHAPE.dim)):
            parameters = [getattr(getattr(attention, part), kind) for part in parts]
            storages = {parameter.untyped_storage().data_ptr() for parameter in parameters}
            assert len(storages) == 1
            assert parameters[0].untyped_storage().nbytes() == 3 * size * 4
            assert all(parameter.is_leaf and parameter.requires_grad for parameter in parameters)
            for part, parameter in zip(parts, parameters, strict=True):
                assert torch.equal(parameter, getattr(getattr(before.self_attn, part), kind))


def test_weights_changed_in_place_or_replaced_are_used_at_once() -> None:
    model = random_esm2(SHAPE)
    wrapper = ESM2WithFlashAttention(model)
    proteins = random_proteins([12, 40])
    before = run(wrapper, proteins)
    other = random_esm2(SHAPE, seed=1)
    expected = run(ESM2WithFlashAttention(copy.deepcopy(other)), proteins)
    assert not torch.equal(before[0], expected[0])
    model.load_state_dict(other.state_dict())
    assert torch.equal(run(wrapper, proteins)[0], expected[0])
    model.load_state_dict(random_esm2(SHAPE).state_dict(), assign=True)
    assert torch.equal(run(wrapper, proteins)[0], before[0])


@path
def test_gradients_are_fair_esms(v1: bool) -> None:
    model = random_esm2(SHAPE)
    untouched = copy.deepcopy(model)
    proteins = random_proteins([7, 33, 20], masks=True)
    wrapper = ESM2WithFlashAttention(model)
    weights = torch.linspace(-1, 1, SHAPE.dim)
    rows = wrapper.forward_packed(*packed(proteins), v1_compatible=v1)["representations"][SHAPE.layers]
    (rows * weights).sum().backward()
    for protein in proteins:
        tokens = torch.from_numpy(protein)[None].long()
        out = untouched(tokens, repr_layers=[SHAPE.layers])["representations"][SHAPE.layers]
        (out * weights).sum().backward()
    checked = 0
    for (name, parameter), expected in zip(model.named_parameters(), untouched.parameters(), strict=True):
        if expected.grad is None or parameter.grad is None:
            assert expected.grad is parameter.grad, name
        elif not name.endswith("k_proj.bias"):  # softmax does not see it: its gradient is rounding noise
            assert relative_l2(parameter.grad.flatten(), expected.grad.flatten()) < 1e-4, name
            checked += 1
    assert checked > 10 * SHAPE.layers


def test_an_optimizer_step_reaches_the_packed_forward() -> None:
    wrapper = ESM2WithFlashAttention(random_esm2(SHAPE))
    proteins = random_proteins([7, 33])
    optimizer = torch.optim.SGD(wrapper.parameters(), lr=0.1)
    wrapper.forward_packed(*packed(proteins))["representations"][SHAPE.layers].pow(2).mean().backward()
    optimizer.step()
    after = run(wrapper, proteins)
    fresh = run(ESM2WithFlashAttention(copy.deepcopy(wrapper.model)), proteins)
    assert torch.equal(after[1], fresh[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casting_leaves_inv_freq_alone(dtype: torch.dtype) -> None:
    wrapper = ESM2WithFlashAttention(random_esm2(SHAPE))
    before = wrapper.model.layers[0].self_attn.rot_emb.inv_freq.clone()
    run(wrapper, random_proteins([9]), v1=True)  # leaves no table of another type behind
    wrapper.to(dtype)
    assert wrapper.model.layers[1].fc1.weight.dtype == dtype
    for layer in wrapper.model.layers:
        assert layer.self_attn.rot_emb.inv_freq.dtype == torch.float32
        assert torch.equal(layer.self_attn.rot_emb.inv_freq, before)


@path
@pytest.mark.parametrize(
    ("dtype", "limit"),
    # Rounding differs in fp32, and neither side is better; below it fair-esm loses more, as it rounds `inv_freq` too.
    [(torch.float32, 2.0), (torch.float16, 1.0), (torch.bfloat16, 0.7)],
    ids=["fp32", "fp16", "bf16"],
)
@pytest.mark.parametrize("shape", [ESM2_SHAPES[1], ESM2_SHAPES[3]], ids=["3x96x4", "1x128x1"])
def test_the_error_is_not_beyond_fair_esms_own_in_the_same_type(
    shape: Esm2Config, dtype: torch.dtype, limit: float, v1: bool
) -> None:
    proteins = random_proteins([600, 170, 33, 5, 3])
    last = range(shape.layers, shape.layers + 1)

    def original(dtype: torch.dtype) -> Tensor:
        model = random_esm2(shape).to(dtype)
        return torch.cat([alone(model, protein, last)[shape.layers] for protein in proteins])

    actual = torch.cat(run(ESM2WithFlashAttention(random_esm2(shape)).to(dtype), proteins, v1))
    assert error_ratio(actual, original(dtype), original(torch.float64)) < limit


def test_a_model_cast_before_is_refused() -> None:
    with pytest.raises(ValueError, match=r"inv_freq was cast to torch\.bfloat16"):
        ESM2WithFlashAttention(random_esm2(SHAPE).bfloat16())


def test_a_model_cast_behind_the_wrappers_back_is_refused() -> None:
    wrapper = ESM2WithFlashAttention(random_esm2(SHAPE))
    wrapper.model.bfloat16()
    with pytest.raises(ValueError, match="inv_freq was cast"):
        run(wrapper, random_proteins([9]))


def test_layers_with_frequencies_of_their_own_are_refused() -> None:
    model = random_esm2(SHAPE)
    model.layers[1].self_attn.rot_emb.inv_freq[0] *= 2
    with pytest.raises(ValueError, match="differ in inv_freq"):
        ESM2WithFlashAttention(model)


def test_the_checkpoints_frequencies_are_used_not_recomputed() -> None:
    model = random_esm2(SHAPE)
    for layer in model.layers:
        layer.self_attn.rot_emb.inv_freq *= 1.25
    protein = random_proteins([80])
    expected = alone(copy.deepcopy(model), protein[0], range(SHAPE.layers, SHAPE.layers + 1))[SHAPE.layers]
    assert relative_l2(run(ESM2WithFlashAttention(model), protein)[0], expected) < TOLERANCE


def test_a_ready_layout_gives_the_same_bits() -> None:
    wrapper = ESM2WithFlashAttention(random_esm2(SHAPE))
    proteins = random_proteins([9, 120])
    ids, _, longest = packed(proteins)
    with torch.inference_mode():
        rows = wrapper.forward_packed(ids, layout_of(proteins), longest)["representations"][SHAPE.layers]
    assert torch.equal(rows, torch.cat(run(wrapper, proteins)))


def _int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


IDS = torch.from_numpy(np.concatenate(random_proteins([5, 5])))
BOUNDS = _int32(0, 5, 10)


@pytest.mark.parametrize(
    ("ids", "bounds", "longest", "layers", "message"),
    [
        (IDS, _int32(1, 5, 10), 5, None, "start at 0, not 1"),
        (IDS, _int32(0, 7, 5, 10), 7, None, "must increase, but falls after entry 1"),
        (IDS, _int32(0, 5, 5, 10), 5, None, "segment 1 has length 0"),
        (IDS, _int32(0, 5, 9), 5, None, "ends at 9, but there are 10 tokens"),
        (IDS, _int32(0, 5, 11), 6, None, "ends at 11, but there are 10 tokens"),
        (IDS, _int32(0), 5, None, "at least one segment"),
        (IDS, BOUNDS[None], 5, None, "at least one segment"),
        (IDS, BOUNDS.long(), 5, None, "cu_seqlens must be int32"),
        (IDS, BOUNDS.float(), 5, None, "cu_seqlens must be int32"),
        (IDS, BOUNDS.to("meta"), 5, None, "cu_seqlens must be on the host"),
        (IDS, BOUNDS, 4, None, "max_seqlen is 4, but the longest segment has 5"),
        (IDS.float(), BOUNDS, 5, None, "input_ids must be int32 or int64"),
        (IDS[None], BOUNDS, 5, None, "input_ids must be int32 or int64"),
        (torch.where(IDS[3] == IDS, 33, IDS), BOUNDS, 5, None, r"input_ids\[\d\] is 33, outside"),
        (torch.where(IDS[0] == IDS, -1, IDS), BOUNDS, 5, None, r"input_ids\[0\] is -1, outside"),
        (IDS, BOUNDS, 5, [SHAPE.layers + 1], "no layer 4, only 0 to 3"),
        (IDS, BOUNDS, 5, [-1], "no layer -1"),
        (IDS, PackedLayout.build(_int32(0, 9), 9, "cpu"), 9, None, "layout is of 9 tokens, but there are 10"),
        (IDS, PackedLayout.build(BOUNDS, 10, "meta"), 5, None, "layout is on meta, but the model is on cpu"),
    ],
)
def test_bad_arguments_are_named(
    ids: Tensor, bounds: Tensor | PackedLayout, longest: int, layers: list[int] | None, message: str
) -> None:
    wrapper = ESM2WithFlashAttention(random_esm2(SHAPE))
    with pytest.raises(ValueError, match=message):
        wrapper.forward_packed(ids, bounds, longest, layers)


def test_a_named_back_end_that_cannot_serve_is_an_error() -> None:
    wrapper = ESM2WithFlashAttention(random_esm2(SHAPE), backend="varlen")
    with pytest.raises(BackendUnavailable, match="varlen: needs a CUDA device, not cpu"):
        run(wrapper, random_proteins([9]))
