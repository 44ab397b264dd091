"""What the model computes is counted, and nothing that the cache of frames answers."""

from __future__ import annotations

import numpy as np
import pytest

from consumer.scoring.metered import MeteredScorer
from tests.support.factories import INFO, ConstantScorer, prepared_frame
from virnucpro_core.scoring.frame_cache import with_cache


class Queue(ConstantScorer):
    """Has a queue."""

    def enqueue(self, batch):
        return self

    def read(self):
        return np.full((1, 2), 0.5, dtype=np.float32)


@pytest.fixture
def seen() -> list[tuple[int, int]]:
    return []


def tokens(batch) -> tuple[int, int]:
    return sum(frame.tokens for frame in batch), sum(len(frame.dna_ids) for frame in batch)


@pytest.mark.parametrize("inner", [ConstantScorer(), Queue()], ids=["scorer", "queue"])
def test_each_way_to_compute_is_counted_once(inner, seen):
    batch = [prepared_frame(10, 4), prepared_frame(20, 9)]
    metered = MeteredScorer(inner, lambda *both: seen.append(both))
    metered.score(batch)
    assert seen == [tokens(batch)]
    metered.enqueue(batch).read()
    assert seen == [tokens(batch)] * 2
    assert tokens(batch) == (30, 13)


def test_what_the_cache_answers_is_not(seen):
    reused = []
    batch = [prepared_frame(10, 4), prepared_frame(20, 9)]
    scorer = with_cache(
        MeteredScorer(ConstantScorer(), lambda *both: seen.append(both)), INFO, 100, reused.append
    )
    first, second = scorer.score(batch), scorer.score(batch)
    assert np.array_equal(first, second)
    assert seen == [tokens(batch)]
    assert reused == [2]
