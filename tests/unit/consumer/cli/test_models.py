"""`virnucpro models`: the commands as they are typed, and what they leave behind."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from consumer.cli.app import run
from tests.support.checkpoints import (
    DNA,
    ESM2,
    dnabert_s,
    save_classifier,
    trained_classifier,
)
from tests.support.models_fixture import random_dnabert_s
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.importing.bundle_builder import build_bundle, read_sources
from virnucpro_core.importing.import_error import CheckpointError

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


def test_models_list_show_and_path(published, tmp_path, capsys):
    output = tmp_path / "bundles" / "tiny"
    assert run(published.arguments(output)) == 0
    capsys.readouterr()
    assert run(["models", "list", str(tmp_path / "bundles")]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [str(output), "tiny-500", "500"] in [row[:3] for row in rows]
    assert [row[0] for row in rows[:2]] == ["nano-300", "nano-500"]
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
    assert Path(capsys.readouterr().out.strip()).name == "nano-500"


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
