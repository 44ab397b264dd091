"""A bundle is what a stranger wrote: absurd sizes, deep JSON, odd names and odd files get one line, at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from consumer.cli.app import run
from tests.support.checkpoints import Published
from tests.support.models_fixture import random_bundle
from virnucpro_core.bundle.bundle import Bundle, read_manifest, write_bundle
from virnucpro_core.bundle.manifest import BundleError, DnabertSConfig, Esm2Config, HeadConfig
from virnucpro_core.models.engine import Engine

pytestmark = pytest.mark.usefixtures("on_the_cpu")
HUGE = 10**4000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "bundles" / "tiny"))


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.load(path).tokenizer()
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message


def changed(folder: Path, place: tuple[str, ...], value: Any) -> Path:
    content = json.loads((folder / "manifest.json").read_text())
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


SIZES = [
    *(("esm2", name) for name in ("layers", "dim", "heads")),
    *(("dnabert_s", name) for name in ("layers", "dim", "heads", "intermediate", "vocab")),
    ("head", "hidden"),
    ("expected_length",),
    ("files", "esm2", "bytes"),
]


@pytest.mark.parametrize("place", SIZES, ids=".".join)
@pytest.mark.parametrize("value", [2**60, HUGE, -1, 0])
def test_a_size_that_no_model_has(copied: Path, place: tuple[str, ...], value: int) -> None:
    message = refusal(changed(copied, place, value))
    assert f"'{place[-1]}'" in message
    assert "over the limit of" in message or "must be positive" in message


def test_a_number_that_json_does_not_take(copied: Path) -> None:
    text = (copied / "manifest.json").read_text().replace('"layers": 2', '"layers": ' + "9" * 5000, 1)
    (copied / "manifest.json").write_text(text)
    assert "not JSON" in refusal(copied)


@pytest.mark.parametrize(("open_", "close"), [('{"a":', "}"), ("[", "]")])
@pytest.mark.parametrize("levels", [101, 900, 100_000])
def test_deep_json(copied: Path, open_: str, close: str, levels: int) -> None:
    content = json.loads((copied / "manifest.json").read_text())
    content["training"] = {"x": "HERE"}
    deep = json.dumps(content).replace('"HERE"', open_ * levels + "1" + close * levels)
    (copied / "manifest.json").write_text(deep)
    assert "nested over 100 levels deep" in refusal(copied)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "..", ".", "/dev/zero", "x" * 100_000, "a\nb"])
def test_a_file_name_that_is_none(copied: Path, name: str) -> None:
    refusal(changed(copied, ("files", "esm2", "name"), name))


@pytest.mark.parametrize("place", [("id",), ("description",), ("licence",), ("files", "head", "sha256")])
@pytest.mark.parametrize("text", ["\udc80", "x" * 10_001])
def test_a_text_that_no_message_can_carry(copied: Path, place: tuple[str, ...], text: str) -> None:
    refusal(changed(copied, place, text))


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "large"])
@pytest.mark.parametrize("name", ["manifest.json", "esm2.safetensors", "tokenizer.json"])
def test_what_is_not_a_small_regular_file(copied: Path, name: str, kind: str) -> None:
    path = copied / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        with path.open("wb") as file:  # a hole takes no place on the disk
            file.truncate(2**40)
    assert str(path) in refusal(copied)


def test_weights_larger_than_their_model_are_not_even_hashed(copied: Path) -> None:
    with (copied / "head.safetensors").open("r+b") as file:
        file.truncate(2**40)
    changed(copied, ("files", "head", "bytes"), 2**40)
    assert "more than a model of these dimensions has" in refusal(copied)


def test_the_shapes_that_are_published_are_within_the_limits() -> None:
    for layers, dim, heads in ((6, 320, 20), (36, 2560, 40), (48, 5120, 40)):
        assert Esm2Config(layers, dim, heads).numbers > layers * 12 * dim**2
    assert DnabertSConfig(12, 768, 12, 3072, 4096).numbers > 116_000_000
    assert HeadConfig(1280).hidden == 1280
    with pytest.raises(BundleError, match="rotary positions need an even number"):
        Esm2Config(2, 30, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("role", ["esm2", "dnabert_s", "head"])
def test_weights_that_are_not_finite_are_refused(copied: Path, role: str, value: float) -> None:
    path = copied / f"{role}.safetensors"
    weights = load_file(path)
    name = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    weights[name][-1, -1] = value
    save_file(weights, path)
    changed(copied, ("files", role, "bytes"), path.stat().st_size)
    changed(copied, ("files", role, "sha256"), hashlib.sha256(path.read_bytes()).hexdigest())
    bundle = Bundle.load(copied)
    with pytest.raises(BundleError, match=f"{role}: weights are NaN or infinite in float32: {name}"):
        Engine(bundle, device="cpu", self_test=False)
    parts = {part: bundle.tensors(part) for part in ("esm2", "dnabert_s", "head")}
    with pytest.raises(BundleError, match=f"{role}: weights are NaN or infinite: {name}"):
        write_bundle(copied.parent / "again", bundle.manifest, parts, bundle.file("tokenizer"))
    assert not (copied.parent / "again").exists()


def test_weights_that_overflow_in_the_precision_are_refused(written: Path) -> None:
    from virnucpro_core.bundle.weights import WeightsError, fill

    layer = torch.nn.Linear(2, 2, bias=False, device="meta")
    for dtype in (torch.float32, torch.bfloat16):
        fill("esm2", layer, {"weight": torch.full((2, 2), 1e5)}, torch.device("cpu"), dtype)
    with pytest.raises(
        WeightsError, match=r"NaN or infinite in float16: weight; .* choose another precision"
    ):
        fill("esm2", layer, {"weight": torch.full((2, 2), 1e5)}, torch.device("cpu"), torch.float16)


def test_one_damaged_bundle_does_not_end_the_list(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied.parent
    for name, content in {"a": b"{", "z": b"[" * 10**6}.items():
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_bytes(content)
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe" / "manifest.json")
    assert run(["models", "list", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert str(copied) in out
    lines = err.splitlines()
    assert [Path(line.split()[1].rstrip(":")).parent.name for line in lines[:-1]] == ["a", "pipe", "z"]
    assert lines[-1].startswith("virnucpro: error: 3 bundles cannot be read (named above)")


def test_show_prints_the_figures_that_the_manifest_states(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", "nano"]) == 0
    shown = capsys.readouterr().out
    manifest, _ = read_manifest(Path(run_path(capsys)))
    for level in ("chunk", "records_by_verdict_rule"):
        found = manifest.validation[level]
        (line,) = [line for line in shown.splitlines() if line.startswith(f"validation {level} ")]
        assert f"AUROC {found['auroc']:.3f}, right {found['accuracy']:.1%}" in line


def run_path(capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["models", "path", "nano"]) == 0
    return capsys.readouterr().out.strip()


class TestImport:
    """Checkpoints in folders, and their configurations."""

    @pytest.mark.parametrize("option", ["esm2", "head", "dnabert_s", "tokenizer"])
    @pytest.mark.parametrize("kind", ["pipe", "device"])
    def test_what_is_not_a_file(
        self, published: Published, tmp_path: Path, option: str, kind: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "model.pt"
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
        assert run(published.arguments(tmp_path / "out", **{option: path})) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert str(path) in line

    @pytest.mark.parametrize("value", [10**9, 2**70, HUGE, -1, "12", None, [[]]])
    @pytest.mark.parametrize(
        "name", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"]
    )
    def test_absurd_sizes_of_a_configuration(
        self, published: Published, tmp_path: Path, name: str, value: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = Path(shutil.copytree(published.dna_path, tmp_path / "dna"))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {name: value}))
        assert run(published.arguments(tmp_path / "out", dnabert_s=folder)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "config.json: " in line
        assert len(line) < len(str(folder)) + 300

    @pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**5, "9" * 5000, ""])
    def test_a_configuration_that_is_not_one(
        self, published: Published, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = Path(shutil.copytree(published.dna_path, tmp_path / "dna"))
        (folder / "config.json").write_text(text)
        assert run(published.arguments(tmp_path / "out", dnabert_s=folder)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "config.json is not JSON" in line
