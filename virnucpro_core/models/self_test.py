"""The start-up self-test: the chosen attention path against fair-esm's own forward, on the loaded weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from virnucpro_core.errors import CoreError
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.pooling import mean_of_residues
from virnucpro_core.models.precision import Precision
from virnucpro_core.scoring.model import SelfTestResult
from virnucpro_core.scoring.packing import pack
from virnucpro_core.sequence.tokens import esm2_token_ids

_LETTERS = "LAGVSERTIDPKQNFYMHWC"
_LENGTHS = (3, 166, 17, 98, 31, 1, 64)


class SelfTestFailed(CoreError):
    """The chosen path does not give fair-esm's numbers; the message has the distances."""


def probe_proteins() -> list[str]:
    """A few proteins of unequal lengths, always the same."""
    rng = np.random.default_rng(20)
    return ["".join(rng.choice(list(_LETTERS), size=length)) for length in _LENGTHS]


def compare_with_fair_esm(model: ESM2WithFlashAttention, precision: Precision) -> SelfTestResult:
    """Run the probe proteins packed through the chosen path, and one by one through fair-esm's forward."""
    packed = pack([esm2_token_ids(protein) for protein in probe_proteins()])
    layout = PackedLayout.build(packed.cu_seqlens, len(packed.ids), model.device)
    ids = torch.from_numpy(packed.ids)
    last = model.num_layers
    with torch.inference_mode():
        chosen = model.forward_packed(ids, layout, packed.max_seqlen)["representations"][last]
        alone = [
            model(protein[None].to(model.device, torch.int64), (last,))["representations"][last][0]
            for protein in torch.split(ids, layout.lengths.tolist())
        ]
        expected = torch.cat(alone)
        per_token = _relative_l2(chosen, expected)
        pooled = _relative_l2(mean_of_residues(chosen, layout), mean_of_residues(expected, layout))
    allowed = precision.tolerance
    return SelfTestResult(per_token, pooled, allowed.self_test, allowed.self_test_token)


def run_self_test(model: ESM2WithFlashAttention, precision: Precision) -> SelfTestResult:
    """Compare, and refuse what is over the tolerance of the precision.

    Raises:
        SelfTestFailed: with the distances.
    """
    result = compare_with_fair_esm(model, precision)
    if not result.passed:
        raise SelfTestFailed(
            "self-test failed: the chosen attention path is off fair-esm's own forward by "
            f"{result.per_token:.3g} per token and {result.pooled:.3g} pooled (relative L2), "
            f"allowed {result.token_tolerance:.0e} and {result.tolerance:.0e}"
        )
    return result


def _relative_l2(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.double(), expected.double()
    distances = (actual - expected).norm(dim=1) / expected.norm(dim=1)
    return float(distances.max())
