"""What a graph reads, which graph serves a batch, and what comes back; recording itself is tested on a GPU.

In the place of a CUDA graph stands the forward itself, run again when it is replayed, on the same fixed tensors.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.models_fixture import ESM2_SHAPES, layout_of, random_dna, random_dnabert_s, random_esm2
from virnucpro_core.models import dnabert_s, esm2_flash
from virnucpro_core.models.attention import Choice, FlashAttn
from virnucpro_core.models.dnabert_s import DnabertS
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.graphs import ForwardGraphs, Recorded, Size, StaticBatch, sizes_of
from virnucpro_core.models.kernels.rotary_attention import query_tiles
from virnucpro_core.models.layout import PackedLayout

CPU = torch.device("cpu")
TILE = 64
TABLE = torch.randint(-9, 10, (100, 3), generator=torch.Generator().manual_seed(0)).float()  # sums are exact


def forward(batch: StaticBatch) -> Tensor:
    """[rows, 3]: a value of each id, plus the sum of those of its segment, plus the tiles that name the segment."""
    values = TABLE[batch.ids.long()]
    segments = batch.segment_ids.long()
    sums = torch.zeros(len(batch.bounds) - 1, 3).index_add(0, segments, values)
    tiles = torch.bincount(batch.tiles[:, 0].long(), minlength=len(sums)).to(values.dtype)
    return values + sums[segments] + tiles[segments, None]


def replaying(batch: StaticBatch) -> Recorded:
    out = forward(batch)
    return Recorded(batch, out, lambda: out.copy_(forward(batch)))


def graphs(*sizes: int | Size, longest: int = 384) -> ForwardGraphs:
    all_sizes = [size if isinstance(size, Size) else Size(size, 0) for size in sizes]
    return ForwardGraphs(all_sizes, longest, lambda rows: StaticBatch(rows, CPU, TILE), replaying)


def ids_and_layout(lengths: list[int], seed: int = 0) -> tuple[Tensor, PackedLayout]:
    """As a forward has them: the ids padded to the layout's rows."""
    segments = random_dna(lengths, seed, vocabulary=100)
    layout = layout_of(segments)
    ids = torch.from_numpy(np.concatenate(segments))
    return torch.nn.functional.pad(ids, (0, layout.rows - layout.total)), layout


def expected(ids: Tensor, layout: PackedLayout) -> Tensor:
    parts = torch.split(TABLE[ids[: layout.total].long()], layout.lengths.tolist())
    return torch.cat([part + part.sum(0) + -(-len(part) // TILE) for part in parts])


@pytest.mark.parametrize(
    ("dim", "largest", "count"),
    [
        (128, 16384, 20),
        (320, 16384, 20),
        (1280, 4096, 12),
        (2560, 2048, 8),
        (5120, 1024, 4),
        (20_000, 256, 1),
    ],
)
def test_how_many_small_sizes_are_recorded_follows_from_the_width(dim: int, largest: int, count: int) -> None:
    sizes = [size.rows for size in sizes_of(dim) if size.least == 0]
    assert (sizes[0], sizes[-1], len(sizes)) == (256, largest, count)
    steps = np.diff(sizes)
    assert (steps <= np.maximum(256, np.array(sizes[:-1]) / 4)).all()
    assert all(size % 256 == 0 for size in sizes)


@pytest.mark.parametrize(
    ("dim", "full"),
    [(128, []), (1280, [8192, 16384]), (2560, [4096, 8192, 16384]), (40_000, [4096, 8192, 16384])],
)
def test_above_them_are_sizes_for_batches_that_are_nearly_full(dim: int, full: list[int]) -> None:
    sizes = [size for size in sizes_of(dim) if size.least > 0]
    assert [size.rows for size in sizes] == full
    assert all(0.96 * size.rows <= size.least < size.rows for size in sizes)


def test_without_sizes_nothing_is_served() -> None:
    assert graphs()(*ids_and_layout([5])) is None


def test_a_graph_for_full_batches_leaves_the_others_to_the_forward() -> None:
    recorded = graphs(256, Size(1024, 992))
    served = [recorded(*ids_and_layout(lengths)) is not None for lengths in ([256], [257], [384, 384, 223])]
    assert served == [True, False, False]
    ids, layout = ids_and_layout([384, 384, 224])
    assert torch.equal(recorded(ids, layout), expected(ids, layout))  # type: ignore[arg-type]


def test_what_recorded_is_kept_with_what_its_forward_reads() -> None:
    """Memory that a replay reads must not be given to anybody else."""

    class Recorder:
        def __call__(self, batch: StaticBatch) -> Recorded:
            return replaying(batch)

    recorder = Recorder()
    alive = weakref.ref(recorder)
    recorded = ForwardGraphs([Size(256, 0)], 384, lambda rows: StaticBatch(rows, CPU, TILE), recorder)
    del recorder
    gc.collect()
    assert alive() is not None
    del recorded
    gc.collect()
    assert alive() is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 384), min_size=1, max_size=20), min_size=1, max_size=4))
def test_each_batch_gets_its_own_rows_whatever_was_there_before(batches: list[list[int]]) -> None:
    recorded = graphs(256, 512, 1024)
    for seed, lengths in enumerate(batches):
        ids, layout = ids_and_layout(lengths, seed)
        rows = recorded(ids, layout)
        if layout.total > 1024:
            assert rows is None
        else:
            assert rows is not None
            assert torch.equal(rows, expected(ids, layout))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 384), min_size=1, max_size=24))
def test_the_fixed_batch_describes_the_segments_then_the_padding_then_nothing(lengths: list[int]) -> None:
    ids, layout = ids_and_layout(lengths)
    batch = StaticBatch(-(-layout.rows // 256) * 256, CPU, TILE)
    assert batch.takes(layout)
    batch.fill(ids, layout)
    own = len(lengths)
    bounds = batch.bounds.tolist()
    assert bounds[: own + 1] == layout.cu_seqlens[: own + 1].tolist()
    assert set(bounds[own + 1 :]) == {batch.rows}
    assert len(bounds) >= own + 3  # there is an empty segment
    assert torch.equal(batch.segment_ids[: layout.total], layout.segment_ids[: layout.total].int())
    assert set(batch.segment_ids[layout.total :].tolist()) <= {own}
    tiles = query_tiles(layout.lengths, np.ones(own, dtype=bool), TILE).tolist()
    assert batch.tiles.tolist()[: len(tiles)] == tiles
    empty, start = batch.tiles[len(tiles) :].unique(dim=0)[0].tolist()
    assert (bounds[empty], bounds[empty + 1], start) == (batch.rows, batch.rows, 0)
    assert len(batch.tiles[len(tiles) :].unique(dim=0)) == 1


def test_the_smallest_graph_that_has_room_serves() -> None:
    recorded = graphs(256, 512, 1024)
    used: list[int] = []
    for each in recorded._recorded:
        object.__setattr__(each, "replay", lambda rows=each.batch.rows: used.append(rows))
    for lengths in ([256], [257], [100, 100, 100, 200], [1] * 24, [1] * 33, [384, 384, 256], [1] * 49):
        recorded(*ids_and_layout(lengths))
    # 256 rows have room for 24 segments, 512 for 32, 1,024 for 48.
    assert used == [256, 512, 512, 256, 1024, 1024]


def test_a_segment_that_is_too_long_is_left_to_the_forward() -> None:
    recorded = graphs(1024, longest=200)
    assert recorded(*ids_and_layout([200, 7])) is not None
    assert recorded(*ids_and_layout([7, 201])) is None


def test_a_result_is_a_copy() -> None:
    recorded = graphs(256)
    ids, layout = ids_and_layout([30, 5])
    first = recorded(ids, layout)
    recorded(*ids_and_layout([7, 90], seed=1))
    assert first is not None
    assert torch.equal(first, expected(ids, layout))


def test_a_new_batch_is_padding_alone() -> None:
    """No kernel runs over it: a segment of all rows would be longer than the tables that kernels read."""
    batch = StaticBatch(1024, CPU, TILE)
    assert batch.bounds.tolist() == [0] + [1024] * (len(batch.bounds) - 1)
    assert not batch.segment_ids.any()
    empty = batch.tiles[:, 0].unique().tolist()
    assert [int(batch.bounds[each + 1] - batch.bounds[each]) for each in empty] == [0]


def test_what_a_graph_reads_stays_where_it_is() -> None:
    batch = StaticBatch(256, CPU, TILE)
    parts = (batch.ids, batch.bounds, batch.segment_ids, batch.tiles)
    before = [part.data_ptr() for part in parts]
    batch.fill(*ids_and_layout([30, 5]))
    assert [part.data_ptr() for part in parts] == before
    # Kernels are compiled for addresses that are a multiple of 16 bytes.
    assert all((part.data_ptr() - batch.bounds.data_ptr()) % 16 == 0 for part in parts[1:])


def test_without_tritons_kernels_and_flash_attn_nothing_is_recorded() -> None:
    esm2, dna = ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[0])), random_dnabert_s()
    assert esm2.record_graphs() == dna.record_graphs() == ()
    assert esm2.graphs_refusal() == "needs Triton's kernels"
    assert dna.graphs_refusal() == "needs the attention back-end flash_attn"


class Kept:
    """In the place of a `CudaRecorder`: keeps the forward as that does, and records nothing."""

    def __init__(self, forward: Callable[[StaticBatch], Tensor], _: torch.device) -> None:
        self.forward = forward

    def __call__(self, batch: StaticBatch) -> Recorded:
        return Recorded(batch, torch.zeros(batch.rows, 1), lambda: None)


def recorded_esm2(monkeypatch: pytest.MonkeyPatch) -> ESM2WithFlashAttention:
    pytest.importorskip("triton")
    monkeypatch.setattr(esm2_flash, "CudaRecorder", Kept)
    monkeypatch.setattr(ESM2WithFlashAttention, "graphs_refusal", lambda _: None)
    model = ESM2WithFlashAttention(random_esm2(ESM2_SHAPES[0]))
    assert model.record_graphs()
    return model


def recorded_dnabert_s(monkeypatch: pytest.MonkeyPatch) -> DnabertS:
    monkeypatch.setattr(dnabert_s, "CudaRecorder", Kept)
    monkeypatch.setattr(DnabertS, "choice", lambda *_: Choice(FlashAttn(), {}))
    model = random_dnabert_s()
    assert model.record_graphs()
    return model


@pytest.mark.parametrize("recorded", [recorded_esm2, recorded_dnabert_s])
def test_a_model_that_is_dropped_frees_its_memory_at_once(
    recorded: Callable[[pytest.MonkeyPatch], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes of a device, that the garbage collector does not see."""
    gc.disable()
    try:
        model = recorded(monkeypatch)
        kept = weakref.ref(model), weakref.ref(next(model.parameters()))
        del model
        assert [each() for each in kept] == [None, None]
    finally:
        gc.enable()
