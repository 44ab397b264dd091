"""A batch behind another on the device: enqueued without waiting, and read with the same bits.

python -m pytest tests/gpu/test_enqueue.py
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.gpu.test_gpu_numerics import no_synchronisation
from tests.support.models_fixture import random_bundle, random_frames
from virnucpro_core.errors import NotFinite
from virnucpro_core.models.engine import Engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(random_bundle(tmp_path / "tiny"), device="cuda")


def test_batches_enqueued_one_behind_the_other_have_the_scores_of_batches_run_alone(engine: Engine) -> None:
    batches = [random_frames(20 + number, seed=number) for number in range(6)]
    alone = [engine.score(batch) for batch in batches]
    enqueued = [engine.enqueue(batch) for batch in batches]
    for expected, running in zip(alone, enqueued, strict=True):
        np.testing.assert_array_equal(running.read(), expected)


def test_enqueuing_waits_for_nothing(engine: Engine) -> None:
    frames = random_frames(50)
    expected = engine.score(frames)  # kernels are compiled
    with no_synchronisation():
        running = engine.enqueue(frames)
    np.testing.assert_array_equal(running.read(), expected)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_it_returns_while_the_device_computes_what_is_ahead(tmp_path: Path, cuda_graphs: bool) -> None:
    """Also where the same graph has been launched before and waits in the device's queue."""
    engine = Engine(random_bundle(tmp_path / "tiny"), device="cuda", cuda_graphs=cuda_graphs)
    frames = random_frames(50)
    engine.score(frames)
    begun = time.monotonic()
    torch.cuda._sleep(4_000_000_000)  # two seconds and more
    running = [engine.enqueue(frames) for _ in range(3)]
    enqueued = time.monotonic() - begun
    for each in running:
        each.read()
    assert enqueued < 0.5 * (time.monotonic() - begun)


def test_what_is_not_finite_is_found_when_it_is_read_and_costs_the_batch_behind_nothing(
    engine: Engine,
) -> None:
    good, other = random_frames(5, seed=1), random_frames(5, seed=2)
    expected = engine.score(good)
    bias = engine.head.output.bias.detach().clone()
    with torch.no_grad():
        engine.head.output.bias.fill_(torch.nan)
        bad = engine.enqueue(other)
        engine.head.output.bias.copy_(bias)
    running = engine.enqueue(good)
    with pytest.raises(NotFinite, match="scores of 5 of 5 frames"):
        bad.read()
    np.testing.assert_array_equal(running.read(), expected)
