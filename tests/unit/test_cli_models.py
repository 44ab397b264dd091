"""`virnucpro models`: the commands as they are typed, what they leave behind, and how much memory an import takes."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from consumer.cli.app import run
from tests import checkpoints
from tests.checkpoints import (
    DNA,
    ESM2,
    Published,
    dnabert_s,
    fair_esm,
    hugging_face_esm2,
    save_classifier,
    trained_classifier,
)
from tests.models_fixture import random_dnabert_s
from virnucpro_core.importing.bundle_builder import build_bundle, read_sources
from virnucpro_core.importing.errors import CheckpointError
from virnucpro_core.models.bundle import Bundle

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("on_the_cpu")


class TestCommand:
    def test_the_whole_way(self, published, tmp_path, capsys):
        output = tmp_path / "bundles" / "tiny-500"
        assert run(published.arguments(output)) == 0
        assert f"{output} is complete" in capsys.readouterr().out
        manifest = Bundle.load(output).manifest
        assert (manifest.id, manifest.expected_length, manifest.head.hidden) == ("tiny-500", 500, 24)
        assert (manifest.esm2, manifest.dnabert_s) == (ESM2, DNA)
        origin = manifest.training["imported"]["head"]
        assert origin["layout"] == "pickled module"
        digest = hashlib.sha256(published.head_path.read_bytes()).hexdigest()
        assert origin["files"] == {"500_model.pth": digest}
        assert [path.name for path in output.parent.iterdir()] == ["tiny-500"]
        assert run(["models", "verify", str(output)]) == 0
        out = capsys.readouterr().out
        assert "each has the sha256 of the manifest" in out
        assert "self-test  passed" in out
        assert (
            "not compared: the reference is of the published models, 768 + 2560 features; this one has 64 + 32"
            in out
        )

    def test_300_bases_and_another_tokenizer(self, published, tmp_path):
        moved = (published.dna_path / "tokenizer.json").read_bytes()
        (tmp_path / "words.json").write_bytes(moved)
        output = tmp_path / "tiny-300"
        assert run(published.arguments(output, expected_length=300, tokenizer=tmp_path / "words.json")) == 0
        assert Bundle.load(output).expected_length == 300

    def test_what_exists_is_not_overwritten(self, published, tmp_path, capsys):
        (tmp_path / "keep.txt").write_text("mine")
        assert run(published.arguments(tmp_path)) == 2
        assert "exists already" in capsys.readouterr().err
        assert (tmp_path / "keep.txt").read_text() == "mine"

    def test_parts_that_do_not_belong_together(self, published, tmp_path, capsys):
        head = save_classifier(trained_classifier(3328, 8), tmp_path / "500_model.pth")
        assert run(published.arguments(tmp_path / "out", head=head)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "500_model.pth takes 3328 features, but DNABERT-S (64) and this ESM-2 (32) give 96" in line
        assert not (tmp_path / "out").exists()

    def test_a_missing_tokenizer_is_named(self, published, tmp_path, capsys):
        folder = dnabert_s(published.dna, tmp_path / "dna")
        (folder / "tokenizer.json").unlink()
        assert run(published.arguments(tmp_path / "out", dnabert_s=folder)) == 1
        assert (
            "tokenizer.json is missing: name DNABERT-S's tokenizer.json with --tokenizer"
            in capsys.readouterr().err
        )

    def test_a_tokenizer_with_too_many_tokens(self, tmp_path, published):
        small = random_dnabert_s(type(DNA)(1, 64, 4, 96, 14))
        folder = dnabert_s(small, tmp_path / "dna")
        with pytest.raises(CheckpointError, match="has 15 tokens, the model 14"):
            read_sources(published.esm2_path, folder, published.head_path, None)

    def test_a_failure_while_writing_leaves_nothing(self, published, tmp_path):
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        sources = read_sources(published.esm2_path, published.dna_path, published.head_path, None)
        with pytest.raises(OSError, match="No space"):
            build_bundle(sources, tmp_path / "out", "tiny", 500, full)
        assert list(tmp_path.iterdir()) == []

    def test_the_progress_ends_at_the_work(self, published, tmp_path):
        sources = read_sources(published.esm2_path, published.dna_path, published.head_path, None)
        done: list[int] = []
        build_bundle(sources, tmp_path / "out", "tiny", 500, done.append)
        assert sum(done) == sources.work


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


def test_models_list_show_and_path(published, tmp_path, capsys):
    output = tmp_path / "bundles" / "tiny"
    assert run(published.arguments(output)) == 0
    capsys.readouterr()
    assert run(["models", "list", str(tmp_path / "bundles")]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [str(output), "tiny-500", "500"] in [row[:3] for row in rows]
    assert rows[0][0] == "nano"
    assert run(["models", "show", str(output)]) == 0
    assert re.search(r"ESM-2 +2 layers, 32 dimensions, 2 heads", capsys.readouterr().out)
    assert run(["models", "show", str(output), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["sha256"], shown["path"]) == (
        "tiny-500",
        Bundle.load(output).sha256,
        str(output),
    )
    assert run(["models", "path", "nano"]) == 0
    assert Path(capsys.readouterr().out.strip()).name == "nano"


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show"], ["path", "nano"], ["import", "--help"], ["verify", "--help"]],
    ids=" ".join,
)
def test_looking_at_models_needs_no_torch(arguments):
    code = (
        "import json, sys; from consumer.cli.app import run; code = run(json.loads(sys.argv[1]));"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(["models", *arguments])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 False"


def test_verify_names_an_altered_file(published, tmp_path, capsys):
    output = tmp_path / "tiny"
    assert run(published.arguments(output)) == 0
    bundle = Bundle.load(output)
    content = bytearray(bundle.file("head").read_bytes())
    content[-1] ^= 1
    bundle.file("head").write_bytes(content)
    assert run(["models", "verify", str(output)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "head.safetensors is not the file that its manifest names" in line
