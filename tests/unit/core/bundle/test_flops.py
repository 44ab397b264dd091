"""The estimate of a token's operations is that of the weights of the bundle's layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from virnucpro_core.bundle.bundle import Bundle

BUNDLES = Path(__file__).parents[4] / "virnucpro_core/data/bundles"


@pytest.mark.parametrize("name", ["nano-300", "nano-500"])
def test_two_operations_for_each_weight_of_a_matrix(name):
    bundle = Bundle.load(BUNDLES / name)
    for role, config in (("esm2", bundle.manifest.esm2), ("dnabert_s", bundle.manifest.dnabert_s)):
        weights = bundle.tensors(role).items()
        matrices = [weight for path, weight in weights if "layer" in path and weight.ndim == 2]
        assert config.flops_per_token == 2 * sum(weight.numel() for weight in matrices)
