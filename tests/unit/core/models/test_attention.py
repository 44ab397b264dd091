"""Packed attention: the numbers against a plain softmax per segment, the choice of a back-end, the bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.models_fixture import relative_l2
from virnucpro_core.models import attention
from virnucpro_core.models.attention import BACKENDS, BackendUnavailable, Sdpa, choose_backend, packed_choice
from virnucpro_core.models.layout import PADDED_TOKENS, PackedLayout

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HEADS, SIZE = 3, 8
SLOPES = torch.tensor([0.5, 0.125, 0.03])
LENGTHS = (1, 31, 32, 33, 200, 2, 64)

biased = pytest.mark.parametrize("slopes", [None, SLOPES], ids=["plain", "alibi"])


def layout(lengths: tuple[int, ...] | list[int]) -> PackedLayout:
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return PackedLayout.build(bounds, int(bounds[-1]), CPU)


def random_qkv(rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = 2 * torch.randn(3, rows, HEADS, SIZE, generator=generator)
    return q, k, v


def plain(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None) -> Tensor:
    """Attention of one segment, [tokens, heads, size], in fp64, written out."""
    scores = torch.einsum("ihd,jhd->hij", q.double(), k.double()) / math.sqrt(SIZE)
    if slopes is not None:
        place = torch.arange(len(q))
        scores -= slopes.double()[:, None, None] * (place[:, None] - place).abs()
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v.double())


@biased
def test_sdpa_attends_within_each_segment(slopes: Tensor | None) -> None:
    batch = layout(LENGTHS)
    q, k, v = random_qkv(batch.rows)
    out = Sdpa().bind(batch, torch.float32, slopes)(q, k, v)
    start = 0
    for length in LENGTHS:
        part = slice(start, start + length)
        assert relative_l2(out[part].flatten(1), plain(q[part], k[part], v[part], slopes).flatten(1)) < 1e-5
        start += length


def test_the_bias_is_not_rounded_to_16_bits() -> None:
    batch = layout([300])
    q, k, v = (x.bfloat16() for x in random_qkv(batch.rows))
    out = Sdpa().bind(batch, torch.bfloat16, SLOPES)(q, k, v)
    assert out.dtype == torch.bfloat16
    exact = plain(q, k, v, SLOPES)
    assert relative_l2(out.flatten(1), exact.flatten(1)) < 5e-3


@biased
def test_sdpa_is_differentiable(slopes: Tensor | None) -> None:
    batch = layout([5, 40])
    qkv = [x.requires_grad_() for x in random_qkv(batch.rows)]
    Sdpa().bind(batch, torch.float32, slopes)(*qkv)[:45].pow(2).sum().backward()
    actual = [x.grad for x in qkv]
    again = [x.detach().clone().requires_grad_() for x in qkv]
    for part in (slice(0, 5), slice(5, 45)):
        plain(*(x[part] for x in again), slopes).pow(2).sum().backward()
    for got, x in zip(actual, again, strict=True):
        assert got is not None
        assert x.grad is not None
        assert relative_l2(got[:45].flatten(), x.grad[:45].flatten()) < 1e-4


@biased
@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 130),
    before=st.lists(st.integers(1, 130), max_size=40),
    after=st.lists(st.integers(1, 130), max_size=40),
)
def test_a_segments_bits_do_not_depend_on_the_others(
    slopes: Tensor | None, length: int, before: list[int], after: list[int]
) -> None:
    lone = layout([length])
    q, k, v = random_qkv(lone.rows)
    expected = Sdpa().bind(lone, torch.float32, slopes)(q, k, v)[:length]
    batch = layout([*before, length, *after])
    others = random_qkv(batch.rows, seed=1)
    place = slice(sum(before), sum(before) + length)
    for whole, part in zip(others, (q, k, v), strict=True):
        whole[place] = part[:length]
    assert torch.equal(Sdpa().bind(batch, torch.float32, slopes)(*others)[place], expected)


@pytest.mark.parametrize("count", [2, 3, 17, 127, 128, 129, 500])
def test_the_number_of_segments_in_a_call_changes_no_bit(count: int) -> None:
    q, k, v = random_qkv(32)
    one = Sdpa().bind(layout([32]), torch.float32, SLOPES)(q, k, v)
    many = Sdpa().bind(layout([32] * count), torch.float32, SLOPES)(
        *(x.repeat(count, 1, 1) for x in (q, k, v))
    )
    assert torch.equal(many, one.repeat(count, 1, 1))


def test_the_plan_bounds_a_call_and_pads_to_the_own_length_only() -> None:
    plan = layout([40] * 100 + [5000, 3]).padded_tokens
    shapes = [tuple(bucket.gather.shape) for bucket in plan.buckets]
    assert shapes == [(1, 32), (64, 64), (36, 64), (1, 5024)]
    assert all(count == 1 or count * width <= PADDED_TOKENS for count, width in shapes)


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=30))
def test_padding_and_repacking_are_inverses(lengths: list[int]) -> None:
    batch = layout(lengths)
    for plan, rows in ((batch.padded_rows, batch.rows), (batch.padded_tokens, batch.total)):
        values = torch.arange(rows)
        padded = [values[bucket.gather] for bucket in plan.buckets]
        assert torch.equal(plan.repack(padded), values)
        for bucket, part in zip(plan.buckets, padded, strict=True):
            assert torch.equal(part[~bucket.valid], part[:, :1].expand_as(part)[~bucket.valid])
    assert int(sum(bucket.valid.sum() for bucket in batch.padded_tokens.buckets)) == batch.total


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=30))
def test_the_layout_says_where_each_row_is(lengths: list[int]) -> None:
    batch = layout(lengths)
    assert batch.rows == max(batch.total, 32)
    assert batch.total == sum(lengths)
    positions = [place for length in lengths for place in range(length)]
    segments = [segment for segment, length in enumerate(lengths) for _ in range(length)]
    assert batch.positions[: batch.total].tolist() == positions
    assert batch.segment_ids[: batch.total].tolist() == segments
    assert batch.token_bounds.tolist() == [0, *np.cumsum(lengths)]
    assert batch.cu_seqlens[-1] == batch.rows
    assert batch.max_seqlen == int(batch.cu_seqlens.diff().max())


class TestChoice:
    def test_auto_takes_the_first_that_can_and_keeps_the_reasons(self) -> None:
        choice = choose_backend("auto", CPU, torch.float32, 64, alibi=False)
        assert choice.backend.name == "sdpa"
        assert choice.refusals == {
            "flash_attn": "needs a CUDA device, not cpu",
            "varlen": "needs a CUDA device, not cpu",
        }

    def test_a_named_one_is_never_replaced(self) -> None:
        with pytest.raises(
            BackendUnavailable, match="no attention back-end can serve: flash_attn: needs a CUDA"
        ):
            choose_backend("flash_attn", CPU, torch.float32, 64, alibi=False)

    def test_an_unknown_name_lists_the_known(self) -> None:
        with pytest.raises(ValueError, match="'fa3'; known: auto, flash_attn, varlen, sdpa"):
            choose_backend("fa3", CPU, torch.float32, 64, alibi=False)

    @pytest.mark.parametrize(
        ("name", "dtype", "head_dim", "alibi", "reason"),
        [
            ("flash_attn", torch.float32, 64, False, "needs fp16 or bf16, not float32"),
            ("varlen", torch.float16, 20, False, "multiple of 8 up to 256, not 20"),
            ("flash_attn", torch.float16, 264, False, "multiple of 8 up to 256, not 264"),
            ("varlen", torch.float16, 64, True, "no ALiBi"),
            ("sdpa", torch.float16, 20, False, "multiple of 8 on CUDA, not 20"),
            ("sdpa", torch.float32, 64, True, None),
        ],
    )
    def test_reasons_on_a_gpu(
        self,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        dtype: torch.dtype,
        head_dim: int,
        alibi: bool,
        reason: str | None,
    ) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        backend = next(backend for backend in BACKENDS if backend.name == name)
        refusal = backend.refusal(CUDA, dtype, head_dim, alibi)
        assert refusal is None if reason is None else reason in (refusal or "")

    def test_an_old_gpu_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
        choice = choose_backend("auto", CUDA, torch.float16, 64, alibi=False)
        assert choice.backend.name == "sdpa"
        assert choice.refusals["varlen"] == "needs compute capability 8.0 or higher"

    def test_a_missing_flash_attn_is_a_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        monkeypatch.setattr(attention, "_flash_attn", lambda: (None, "No module named 'flash_attn'"))
        choice = choose_backend("auto", CUDA, torch.float16, 64, alibi=False)
        assert (
            choice.refusals["flash_attn"] == "flash-attn 2 cannot be imported (No module named 'flash_attn')"
        )
        assert choice.backend.name == "varlen"

    def test_esm2_is_left_to_its_standard_path_only_under_auto(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        assert packed_choice("auto", CUDA, torch.float16, 20) is None
        with pytest.raises(BackendUnavailable):
            packed_choice("sdpa", CUDA, torch.float16, 20)
