"""How much memory an import of published weights takes, measured on a child process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support import checkpoints
from tests.support.checkpoints import (
    DNA,
    ESM2,
    Published,
    dnabert_s,
    fair_esm,
    hugging_face_esm2,
    save_classifier,
    trained_classifier,
)
from tests.support.models_fixture import random_dnabert_s

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("on_the_cpu")

_IMPORT_AND_MEASURE = """
import json, sys
from consumer.cli.app import run
import virnucpro_core.importing.bundle_builder
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
baseline = peak()
code = run(json.loads(sys.argv[1]))
print(json.dumps({"code": code, "baseline": baseline, "peak": peak()}))
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that is gone after the test; pytest's own stay for three runs, gigabytes and all."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is read from /proc")
@pytest.mark.parametrize("layout", ["fair-esm", "hugging-face"])
def test_an_import_needs_no_more_memory_than_one_copy_of_the_weights(layout, scratch, capsys):
    """ESM-2 650M in fp16, 1.3 GB; the figure of docs/models.md."""
    config = type(ESM2)(33, 1280, 20)
    with torch.device("meta"):
        shapes = checkpoints.esm.ESM2(config.layers, config.dim, config.heads)
    block = torch.randn(2**20).half()
    for module in shapes.modules():
        for name, parameter in module.named_parameters(recurse=False):
            values = block.repeat(-(-parameter.numel() // len(block)))[: parameter.numel()]
            setattr(module, name, nn.Parameter(values.view(parameter.shape).clone(), requires_grad=False))
    for layer in shapes.layers:
        layer.self_attn.rot_emb.inv_freq = torch.rand(32).half()
    if layout == "fair-esm":
        esm2 = fair_esm(shapes, scratch / "esm2_t33_650M.pt")
    else:
        esm2 = hugging_face_esm2(shapes, scratch / "esm2", "shards")
    del shapes
    parts = Published.__new__(Published)
    parts.esm2_path = esm2
    parts.dna_path = dnabert_s(random_dnabert_s(DNA), scratch / "dna")
    parts.head_path = save_classifier(trained_classifier(DNA.dim + config.dim), scratch / "500_model.pth")
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_AND_MEASURE, json.dumps(parts.arguments(scratch / "out"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, done.stderr
    weights = (scratch / "out" / "esm2.safetensors").stat().st_size
    above = found["peak"] - found["baseline"]
    with capsys.disabled():
        print(
            f"\n{layout}: weights {weights / 1e6:,.0f} MB, peak {found['peak'] / 1e6:,.0f} MB, of which "
            f"{found['baseline'] / 1e6:,.0f} MB before the import: {above / weights:.2f} x the weights"
        )
    assert weights > 1.2e9
    assert above <= 1.2 * weights
