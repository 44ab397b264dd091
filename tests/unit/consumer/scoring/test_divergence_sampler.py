"""Live divergence: the right share of batches, figures handed on, failures that touch nothing."""

from __future__ import annotations

import numpy as np
import pytest

from consumer.scoring.divergence_sampler import DivergenceSampler
from tests.support.factories import prepared_frame
from virnucpro_core.errors import DeviceLost, NotFinite
from virnucpro_core.models.attention import BackendUnavailable

FRAMES = [prepared_frame(10), prepared_frame(20)]


class Path:
    """An engine on one path; `shift` moves its virus scores."""

    def __init__(self, shift: float = 0.0, error: Exception | None = None) -> None:
        self.shift, self.error, self.calls = shift, error, 0

    def features_and_scores(self, frames):
        self.calls += 1
        if self.error is not None:
            raise self.error
        virus = np.array([0.45 + self.shift, 0.8 - self.shift], dtype=np.float32)
        return np.ones((2, 4), dtype=np.float32), np.stack([1 - virus, virus], axis=1)


@pytest.mark.parametrize(("share", "expected"), [(1.0, 20), (0.5, 10), (0.25, 5), (0.3, 6), (0.01, 0)])
def test_the_share_of_batches_is_compared(share, expected):
    seen = []
    sampler = DivergenceSampler(Path(), Path(), share, seen.append)
    for _ in range(20):
        sampler.saw(FRAMES)
    assert len(seen) == expected


def test_what_differs_is_told():
    seen = []
    DivergenceSampler(Path(), Path(shift=0.1), 1.0, seen.append).saw(FRAMES)
    (figures,) = seen
    assert figures.frames == 2
    assert figures.label_agreement == 0.5
    assert figures.score_difference == pytest.approx(0.1)


@pytest.mark.parametrize("error", [NotFinite("nan"), BackendUnavailable("no"), ValueError("odd")])
def test_a_failed_comparison_is_counted_and_passed_over(error):
    seen = []
    DivergenceSampler(Path(), Path(error=error), 1.0, seen.append).saw(FRAMES)
    assert seen == [None]


def test_a_lost_device_is_not_passed_over():
    with pytest.raises(DeviceLost):
        DivergenceSampler(Path(), Path(error=DeviceLost("gone")), 1.0, lambda _: None).saw(FRAMES)
