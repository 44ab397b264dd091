"""What the benchmarks compute beside the clock: the loops' scores, the service's figures of a window, records."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.e2e import Look, between
from benchmarks.kernel_times import kind_of
from benchmarks.loops.padded import PaddedModel
from benchmarks.operators import KINDS, operator_times
from benchmarks.records import MIXED, partition_of, reads
from schemas import SequenceRecord, encode_record
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.models.engine import Engine
from virnucpro_core.scoring.model import preparer


@pytest.mark.parametrize("by_length", [False, True])
def test_the_plain_loop_computes_what_the_engine_computes(by_length):
    """Its time would mean nothing otherwise."""
    path = find_bundle("nano")
    loop = PaddedModel(path, "fp32", by_length)
    engine = Engine(Bundle.load(path), device="cpu", self_test=False)
    records = list(reads(12, *MIXED))
    prepare = preparer(engine)
    frames = [frame for record_id, letters in records for frame in prepare(record_id, letters).frames]
    assert len({len(frame.protein_ids) for frame in frames}) > 3, "of one length there is no padding"
    np.testing.assert_allclose(loop.score(frames), engine.score(frames), atol=1e-5)

    answers = [
        json.loads(each) for each in loop.answers([encode_record(SequenceRecord(*each)) for each in records])
    ]
    assert [answer["id"] for answer in answers] == [record_id for record_id, _ in records]
    assert {answer["verdict"] for answer in answers} == {"virus", "others", "no_open_frame"}


def test_reads_are_the_same_for_a_seed_and_every_partition_gets_both_kinds():
    assert list(reads(6)) == list(reads(6))
    assert {len(letters) for _, letters in reads(50, *MIXED)} <= set(range(MIXED[0], MIXED[1] + 1))
    kinds = {(partition_of(number, 4), number % 2) for number in range(16)}
    assert len(kinds) == 8


def test_the_figures_of_a_window_are_of_what_happened_in_it():
    before = {
        "vnp_records_total{outcome=predicted}": 100.0,
        "vnp_tokens_total": 10_000.0,
        "vnp_batch_seconds_count": 10.0,
        "vnp_batch_seconds_sum": 1.0,
        "vnp_batch_tokens_sum": 9_000.0,
        "vnp_batch_fill_ratio_bucket{le=0.95}": 5.0,
        "vnp_batches_total{closed_by=full}": 5.0,
        "vnp_thread_seconds_total{thread=loop,stage=read}": 1.0,
    }
    after = {
        "vnp_records_total{outcome=predicted}": 300.0,
        "vnp_tokens_total": 30_000.0,
        "vnp_batch_seconds_count": 30.0,
        "vnp_batch_seconds_sum": 2.0,
        "vnp_batch_tokens_sum": 29_000.0,
        "vnp_batch_fill_ratio_bucket{le=0.95}": 6.0,
        "vnp_batches_total{closed_by=full}": 24.0,
        "vnp_thread_seconds_total{thread=loop,stage=read}": 1.5,
    }
    found = between(Look(50.0, 7.0, before), Look(54.0, 8.0, after))
    assert (found["tokens_per_s"], found["records_per_s"]) == (5000, 50.0)
    assert (found["batches"], found["batches_full"], found["batch_ms"]) == (20, 0.95, 50.0)
    assert found["cpu_us_a_record"] == 5000
    assert found["closed_by"] == {"closed_by=full": 19.0}
    assert found["stage_us_a_record"] == {"thread=loop,stage=read": 2500.0}


def test_a_window_in_which_nothing_was_answered_is_refused():
    look = Look(1.0, 1.0, {"vnp_records_total": 5.0, "vnp_batch_seconds_count": 2.0})
    with pytest.raises(RuntimeError, match="take a longer one with --seconds"):
        between(look, Look(2.0, 1.0, look.counters))


def test_the_shares_of_operators_add_up_and_products_are_counted_by_their_operations():
    a, b = torch.randn(256, 512), torch.randn(512, 1024)
    found = operator_times(lambda: [torch.nn.functional.gelu(torch.mm(a, b)) for _ in range(5)])
    assert sum(found["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert {"matrix products", "gelu"} <= found["shares"].keys()
    # Not many times faster or slower than a large square product, whatever the machine does meanwhile.
    assert 0.01 < found["products_gflops"] / found["square_gflops"] < 100


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::native_layer_norm", "norms"),
        ("aten::index_select", "gather, copy"),
        ("aten::add", "rotary, sums, masks"),
        ("aten::as_strided", "other"),
    ],
)
def test_operators_are_told_apart_by_their_names(name, kind):
    assert kind_of(name, KINDS) == kind
