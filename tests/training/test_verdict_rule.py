"""VirNucPro's rule exists twice, for numpy and for torch, and once more over scores: all say the same."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.model.losses import chunk_margins
from virnucpro_core.scoring.verdicts import calls, is_virus, verdict_margins

margin = st.floats(-12, 12, width=32)


@given(st.lists(st.lists(margin, min_size=1, max_size=6), min_size=1, max_size=8))
def test_numpy_and_torch_give_the_same_margins(chunks: list[list[float]]) -> None:
    margins = np.array([value for chunk in chunks for value in chunk], dtype=np.float32)
    owner = np.repeat(np.arange(len(chunks)), [len(chunk) for chunk in chunks])
    ours = verdict_margins(margins, owner)
    theirs = chunk_margins(torch.from_numpy(margins), torch.from_numpy(owner), len(chunks)).numpy()
    np.testing.assert_array_equal(ours, theirs)


@given(st.lists(st.lists(st.integers(-12, 12), min_size=1, max_size=6), min_size=1, max_size=8))
def test_the_sign_of_the_margin_is_the_rule_over_the_scores(chunks: list[list[int]]) -> None:
    """On a grid on which no two scores are rounded to one."""
    for chunk in chunks:
        margins = np.array(chunk, dtype=np.float64)
        virus = 1 / (1 + np.exp(-margins))
        others = 1 / (1 + np.exp(margins))
        called = verdict_margins(margins, np.zeros(len(chunk), dtype=np.int64))[0] >= 0
        assert is_virus(float(others.max()), float(virus.max())) == called
        each = calls(np.stack([others, virus], axis=1))
        assert each.tolist() == [value >= 0 for value in chunk]
