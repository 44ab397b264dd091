"""Bundles: what is written is read back, and nothing that was altered is."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.models_fixture import ESM2_SHAPES, random_bundle, random_dnabert_s, random_esm2
from tests.support.small_tokenizer import small_tokenizer
from virnucpro_core.bundle import bundle as bundle_module
from virnucpro_core.bundle.bundle import Bundle, find_bundle, write_bundle
from virnucpro_core.bundle.manifest import BundleError, DnabertSConfig
from virnucpro_core.bundle.weights import WeightsError, fill, weights_of
from virnucpro_core.models.dnabert_s import DnabertS
from virnucpro_core.models.esm2_flash import ESM2WithFlashAttention
from virnucpro_core.models.esm2_weights import build_esm2, esm2_weights

CPU = torch.device("cpu")
FILES = ("esm2.safetensors", "dnabert_s.safetensors", "head.safetensors", "tokenizer.json")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "tiny"))


def edit(folder: Path, change: dict[str, Any]) -> None:
    """Change entries of the manifest; a dotted name reaches into it, None removes."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    for dotted, value in change.items():
        *outer, last = dotted.split(".")
        place = content
        for name in outer:
            place = place[name]
        if value is None:
            del place[last]
        else:
            place[last] = value
    path.write_text(json.dumps(content))


def test_what_is_written_is_read_back(written: Path) -> None:
    bundle = Bundle.load(written)
    assert bundle.manifest.id == "random-0"
    assert bundle.expected_length == bundle.manifest.expected_length == 500
    assert bundle.manifest.training == {"seed": 0}
    assert bundle.sha256 == hashlib.sha256((written / "manifest.json").read_bytes()).hexdigest()
    assert bundle.tokenizer().encode(["ACGT"])[0].tolist() == small_tokenizer().encode(["ACGT"])[0].tolist()
    expected = esm2_weights(random_esm2(ESM2_SHAPES[1]), torch.float16)
    actual = bundle.tensors("esm2")
    assert set(actual) == set(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert {path.name for path in written.iterdir()} == {*FILES, "manifest.json"}


def test_weights_are_stored_in_16_bits_but_for_inv_freq(written: Path) -> None:
    stored = Bundle.load(written).tensors("esm2")
    original = random_esm2(ESM2_SHAPES[1])
    for name, tensor in stored.items():
        assert tensor.dtype == (torch.float32 if name.endswith("inv_freq") else torch.float16), name
    name = "layers.1.self_attn.rot_emb.inv_freq"
    assert torch.equal(stored[name], original.state_dict()[name])
    assert not any(name.startswith(("lm_head", "contact_head")) for name in stored)


@pytest.mark.parametrize("name", FILES)
class TestDamagedFiles:
    def test_a_missing_file_is_refused(self, copied: Path, name: str) -> None:
        (copied / name).unlink()
        with pytest.raises(BundleError, match=f"{name} cannot be read \\(No such file"):
            Bundle.load(copied)

    def test_a_truncated_file_is_refused(self, copied: Path, name: str) -> None:
        content = (copied / name).read_bytes()
        (copied / name).write_bytes(content[:-1])
        with pytest.raises(BundleError, match=f"{name} has {len(content) - 1} bytes, its manifest says"):
            Bundle.load(copied)

    def test_a_file_altered_by_one_bit_is_refused(self, copied: Path, name: str) -> None:
        content = bytearray((copied / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copied / name).write_bytes(content)
        with pytest.raises(BundleError, match=f"{name} is not the file that its manifest names"):
            Bundle.load(copied)


@pytest.mark.parametrize("name", FILES[:3])
def test_a_file_of_another_model(copied: Path, name: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = random_bundle(tmp_path / "other" / "tiny", seed=1)
    shutil.copyfile(other.path / name, copied / name)
    with pytest.raises(BundleError, match=f"{name} is not the file that its manifest names"):
        Bundle.load(copied)


def test_two_files_swapped_with_each_other(copied: Path) -> None:
    first, second = copied / "esm2.safetensors", copied / "dnabert_s.safetensors"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(BundleError, match=r"esm2\.safetensors has"):
        Bundle.load(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2, this version reads 1"),
        ({"id": None}, "'id' is missing"),
        ({"id": ""}, "'id' is empty"),
        ({"expected_length": "500"}, "'expected_length' is not int"),
        ({"expected_length": True}, "'expected_length' is not int"),
        ({"expected_length": 0}, "'expected_length' must be positive, not 0"),
        ({"esm2.layers": None}, "esm2: 'layers' is missing"),
        ({"dnabert_s.heads": 3}, "dnabert_s: 3 heads do not divide the dimension 64"),
        ({"files.head": None}, "'files' must have exactly esm2, dnabert_s, head, tokenizer"),
        ({"files.head.name": "../head.safetensors"}, "'../head.safetensors' is not a plain name"),
        ({"files.head.sha256": 5}, "'sha256' is not str"),
        ({"training": []}, "'training' is not dict"),
        *(
            ({"temperature": value}, "'temperature' must be a positive number, not")
            for value in (0, -1.5, "1", True, [], float("nan"), float("inf"))
        ),
    ],
)
def test_a_wrong_manifest_names_the_entry(copied: Path, change: dict[str, Any], message: str) -> None:
    edit(copied, change)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.load(copied)
    assert str(caught.value).startswith(f"{copied / 'manifest.json'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("entry", "expected"), [(None, 1.0), (2, 2.0), (0.25, 0.25)])
def test_the_temperature_is_1_unless_the_manifest_says_another(
    copied: Path, entry: float | None, expected: float
) -> None:
    edit(copied, {"temperature": entry})
    assert Bundle.load(copied).manifest.temperature == expected


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_object(copied: Path, text: bytes) -> None:
    (copied / "manifest.json").write_bytes(text)
    with pytest.raises(BundleError, match=r"manifest\.json: "):
        Bundle.load(copied)


def test_a_tokenizer_with_more_tokens_than_the_model(copied: Path) -> None:
    edit(copied, {"dnabert_s.vocab": 8})
    with pytest.raises(BundleError, match=r"tokenizer\.json has 15 tokens, the model 8"):
        Bundle.load(copied).tokenizer()


def arguments(source: Bundle, **changes: Any) -> dict[str, Any]:
    """What `write_bundle` takes to write the same bundle again, its manifest with some changes."""
    return {
        "draft": replace(source.manifest, files={}, training={}, validation={}, **changes),
        "tensors": {role: source.tensors(role) for role in ("esm2", "dnabert_s", "head")},
        "tokenizer": source.file("tokenizer"),
    }


class TestWriting:
    def test_the_same_input_gives_the_same_bytes(self, written: Path, tmp_path: Path) -> None:
        given = arguments(Bundle.load(written))
        first, second = (write_bundle(tmp_path / name, **given) for name in ("one", "two"))
        assert first.sha256 == second.sha256

    def test_weights_in_the_file_of_another_bundle_are_copied(self, written: Path, tmp_path: Path) -> None:
        source, told = Bundle.load(written), []
        given = arguments(source, temperature=1.5)
        given["tensors"] |= {role: source.file(role) for role in ("esm2", "dnabert_s")}
        copy = write_bundle(tmp_path / "copy", **given, written=told.append)
        assert copy.manifest.files == source.manifest.files
        assert copy.manifest.temperature == 1.5
        weights = sum(source.file(role).stat().st_size for role in ("esm2", "dnabert_s"))
        assert sum(told) == weights + sum(tensor.nbytes for tensor in source.tensors("head").values())

    def test_a_file_of_weights_that_is_missing_leaves_nothing(self, written: Path, tmp_path: Path) -> None:
        given = arguments(Bundle.load(written))
        given["tensors"]["esm2"] = tmp_path / "missing.safetensors"
        with pytest.raises(FileNotFoundError):
            write_bundle(tmp_path / "copy", **given)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("failing", ["tokenizer", "tensors", "training", "rename"])
    def test_a_failure_leaves_nothing(
        self, written: Path, tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = arguments(Bundle.load(written))
        if failing == "tokenizer":
            given["tokenizer"] = tmp_path / "missing.json"
        elif failing == "tensors":
            given["tensors"]["head"] = {"x": torch.zeros(2, device="meta")}
        elif failing == "training":
            given["draft"].training["when"] = object()
        else:
            monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises((OSError, TypeError, RuntimeError, NotImplementedError, ValueError)):
            write_bundle(tmp_path / "bundle", **given)
        assert list(tmp_path.iterdir()) == []

    def test_a_tokenizer_that_is_none_is_refused(self, written: Path, tmp_path: Path) -> None:
        bad = tmp_path / "bad.json"
        bad.write_text("{}")
        with pytest.raises(BundleError, match="tokenizer"):
            write_bundle(tmp_path / "bundle", **arguments(Bundle.load(written)) | {"tokenizer": bad})
        assert list(tmp_path.iterdir()) == [bad]

    def test_nothing_is_overwritten(self, written: Path) -> None:
        before = Bundle.load(written).sha256
        with pytest.raises(BundleError, match="exists already"):
            write_bundle(written, **arguments(Bundle.load(written)))
        assert Bundle.load(written).sha256 == before

    def test_every_role_is_needed(self, written: Path, tmp_path: Path) -> None:
        given = arguments(Bundle.load(written))
        del given["tensors"]["head"]
        with pytest.raises(BundleError, match="exactly esm2, dnabert_s, head"):
            write_bundle(tmp_path / "bundle", **given)


class TestFinding:
    def test_a_bundle_is_found_by_its_folder(self, written: Path) -> None:
        assert find_bundle(written) == written

    def test_a_bundle_is_found_by_its_name(self, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundle_module, "_BUNDLED", written.parent)
        assert find_bundle("tiny") == written

    def test_nothing_there_lists_what_ships(self, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundle_module, "_BUNDLED", written.parent)
        with pytest.raises(BundleError, match="no model bundle 'nope': give a folder or one of tiny"):
            find_bundle("nope")

    def test_a_folder_without_manifest_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"is not a model bundle: it has no manifest\.json"):
            find_bundle(tmp_path)


class TestWeights:
    def test_a_model_survives_the_way_through_a_bundle(self) -> None:
        config, model = ESM2_SHAPES[1], random_esm2(ESM2_SHAPES[1])
        again = build_esm2(config, esm2_weights(model, torch.float32), CPU, torch.float32)
        expected = model.state_dict()
        for name, tensor in again.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
        assert not again.training
        assert not any(parameter.requires_grad for parameter in again.parameters())

    def test_views_of_the_merged_projection_are_saved_whole(self) -> None:
        model = random_esm2(ESM2_SHAPES[1])
        expected = esm2_weights(model, torch.float32)
        ESM2WithFlashAttention(model)
        actual = esm2_weights(model, torch.float32)
        for name in expected:
            assert torch.equal(actual[name], expected[name])
            assert actual[name].untyped_storage().nbytes() == expected[name].untyped_storage().nbytes()

    def test_a_cast_inv_freq_is_not_saved(self) -> None:
        with pytest.raises(WeightsError, match=r"inv_freq is no longer fp32"):
            esm2_weights(random_esm2(ESM2_SHAPES[0]).half(), torch.float16)

    def test_what_does_not_fit_is_named(self) -> None:
        config = DnabertSConfig(1, 16, 2, 24, 9)
        weights = weights_of(random_dnabert_s(config), torch.float32)
        with torch.device("meta"):
            model = DnabertS(config)
        missing = dict(weights)
        del missing["embeddings.LayerNorm.bias"]
        with pytest.raises(WeightsError, match=r"dna: weights are missing: embeddings\.LayerNorm\.bias"):
            fill("dna", model, missing, CPU, torch.float32)
        with pytest.raises(WeightsError, match=r"does not have: pooler\.dense"):
            fill("dna", model, weights | {"pooler.dense": torch.zeros(1)}, CPU, torch.float32)
        wrong = weights | {"embeddings.LayerNorm.bias": torch.zeros(17)}
        with pytest.raises(WeightsError, match=r"LayerNorm\.bias is \[17\], the model's is \[16\]"):
            fill("dna", model, wrong, CPU, torch.float32)
