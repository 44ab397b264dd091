"""`virnucpro models import`: each published layout gives the numbers of the models that it was saved from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support import checkpoints
from tests.support.checkpoints import (
    ESM2,
    MLPClassifier,
    Published,
    dnabert_s,
    fair_esm,
    hugging_face_esm2,
    save_classifier,
    trained_classifier,
)
from tests.support.models_fixture import random_frames
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.bundle.manifest import BundleError
from virnucpro_core.bundle.weights import WeightsError
from virnucpro_core.importing.bundle_builder import build_bundle, read_sources
from virnucpro_core.importing.dnabert_s_checkpoint import read_dnabert_s
from virnucpro_core.importing.esm2_checkpoint import read_esm2
from virnucpro_core.importing.head_checkpoint import read_head
from virnucpro_core.importing.import_error import CheckpointError
from virnucpro_core.models.engine import Engine

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.usefixtures("on_the_cpu")


def expected(published: Published, frames) -> tuple[np.ndarray, np.ndarray]:
    """Features and scores of the models themselves, one frame at a time, without any code of the engine."""
    features = []
    with torch.no_grad():
        for frame in frames:
            protein = torch.from_numpy(frame.protein_ids.astype(np.int64))[None]
            states = published.esm2(protein, repr_layers=[ESM2.layers])["representations"][ESM2.layers]
            dna = torch.from_numpy(frame.dna_ids)
            bounds = torch.tensor([0, len(dna)], dtype=torch.int32)
            dna_states = published.dna.forward_packed(dna, bounds, len(dna))
            features.append(torch.cat([dna_states.mean(0), states[0, 1:-1].mean(0)]))
        stacked = torch.stack(features)
        scores = published.head(stacked).softmax(dim=1)
    return stacked.numpy(), scores.numpy()


def assert_same_numbers(bundle: Bundle, published: Published) -> None:
    frames = random_frames(7)
    engine = Engine(bundle, device="cpu", precision="fp32")
    features, scores = expected(published, frames)
    assert np.ptp(scores[:, 1]) > 0.01
    np.testing.assert_allclose(engine.features(frames), features, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(engine.score(frames), scores, rtol=0, atol=2e-6)


def build(output: Path, published: Published, **changes: Path) -> Bundle:
    paths = {"esm2": published.esm2_path, "dnabert_s": published.dna_path, "head": published.head_path}
    sources = read_sources(**(paths | changes), tokenizer=None)
    return build_bundle(sources, output, "tiny", 500, lambda _: None)


class TestEsm2:
    @pytest.mark.parametrize("layout", ["cfg", "cfg of dictionaries", "args"])
    @pytest.mark.parametrize("prefix", ["encoder.sentence_encoder.", "encoder."])
    def test_fair_esms_layouts_are_imported(self, published, tmp_path, layout, prefix):
        path = fair_esm(published.esm2, tmp_path / "esm2.pt", layout, prefix)
        assert_same_numbers(build(tmp_path / "bundle", published, esm2=path), published)

    @pytest.mark.parametrize("form", ["safetensors", "shards", "bin"])
    def test_hugging_faces_layout_is_imported(self, published, tmp_path, form):
        path = hugging_face_esm2(published.esm2, tmp_path / "esm2", form)
        assert_same_numbers(build(tmp_path / "bundle", published, esm2=path), published)

    def test_both_layouts_give_the_same_file(self, published, tmp_path):
        folder = hugging_face_esm2(published.esm2, tmp_path / "esm2")
        first = build(tmp_path / "one", published)
        second = build(tmp_path / "two", published, esm2=folder)
        assert first.file("esm2").read_bytes() == second.file("esm2").read_bytes()

    def test_weights_keep_their_type_and_inv_freq_its_values(self, published, tmp_path):
        half = checkpoints.trained_esm2().half()
        stored = build(tmp_path / "bundle", published, esm2=fair_esm(half, tmp_path / "half.pt")).tensors(
            "esm2"
        )
        for name, tensor in stored.items():
            assert tensor.dtype == (torch.float32 if name.endswith("inv_freq") else torch.float16), name
            assert torch.equal(tensor, half.state_dict()[name].to(tensor.dtype)), name

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"token_dropout": False}, "token_dropout is False, only True"),
            ({"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute', only 'rotary'"),
            ({"emb_layer_norm_before": True}, "emb_layer_norm_before is True"),
            ({"num_hidden_layers": "2"}, "'num_hidden_layers' must be a positive number, not '2'"),
            ({"num_hidden_layers": 3}, r"esm2: weights are missing: layers\.2\."),
            ({"num_hidden_layers": 1}, r"esm2: weights that the model does not have: layers\.1\."),
        ],
    )
    def test_another_architecture_is_refused(self, published, tmp_path, change, message):
        folder = hugging_face_esm2(published.esm2, tmp_path / "esm2")
        config = json.loads((folder / "config.json").read_text()) | change
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(BundleError, match=message):
            read_esm2(folder)

    @pytest.mark.parametrize(
        "name", ["esm.encoder.layer.1.extra.weight", "esm.encoder.layer.0.output.dense.scale"]
    )
    def test_an_unknown_weight_is_named(self, published, tmp_path, name):
        folder = hugging_face_esm2(published.esm2, tmp_path / "esm2")
        weights = load_file(folder / "model.safetensors")
        save_file(weights | {name: torch.zeros(1)}, folder / "model.safetensors")
        with pytest.raises(WeightsError, match=r"weights that the model does not have: .*(extra|scale)"):
            read_esm2(folder)

    def test_missing_rotary_frequencies_are_not_made_up(self, published, tmp_path):
        folder = hugging_face_esm2(published.esm2, tmp_path / "esm2")
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if "inv_freq" not in name}
        save_file(kept, folder / "model.safetensors")
        with pytest.raises(
            WeightsError, match=r"weights are missing: layers\.0\.self_attn\.rot_emb\.inv_freq"
        ):
            read_esm2(folder)

    def test_a_missing_shard_is_named(self, published, tmp_path):
        folder = hugging_face_esm2(published.esm2, tmp_path / "esm2", "shards")
        (folder / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
            read_esm2(folder)

    def test_a_shard_outside_the_folder_is_refused(self, published, tmp_path):
        folder = hugging_face_esm2(published.esm2, tmp_path / "esm2", "shards")
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"x": "../other.safetensors"}}))
        with pytest.raises(CheckpointError, match=r"'\.\./other\.safetensors' is not a plain file name"):
            read_esm2(folder)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "is not a fair-esm checkpoint: it has no 'model'"),
            ({"model": {}}, "does not say its architecture"),
            (
                {"model": {"x": 5}, "cfg": {"model": {"token_dropout": True}}},
                "'x' is not a tensor of numbers",
            ),
            (
                {"model": {}, "args": argparse.Namespace(arch="roberta_large", layers=33)},
                "'encoder_layers' must be",
            ),
        ],
    )
    def test_another_kind_of_file_is_refused(self, tmp_path, content, message):
        torch.save(content, tmp_path / "esm2.pt")
        with pytest.raises(CheckpointError, match=message):
            read_esm2(tmp_path / "esm2.pt")


class TestDnabertS:
    @pytest.mark.parametrize("form", ["safetensors", "bin", "legacy bin"])
    @pytest.mark.parametrize("prefix", ["bert.", ""])
    def test_a_folder_is_imported(self, published, tmp_path, form, prefix):
        path = dnabert_s(published.dna, tmp_path / "dna", form, prefix)
        assert_same_numbers(build(tmp_path / "bundle", published, dnabert_s=path), published)

    @pytest.mark.parametrize(
        ("form", "name"), [("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")]
    )
    def test_a_file_is_imported_with_what_is_beside_it(self, published, tmp_path, form, name):
        path = dnabert_s(published.dna, tmp_path / "dna", form) / name
        assert_same_numbers(build(tmp_path / "bundle", published, dnabert_s=path), published)

    def test_without_config_the_published_shape_is_wanted(self, published, tmp_path):
        folder = dnabert_s(published.dna, tmp_path / "dna")
        (folder / "config.json").unlink()
        with pytest.raises(WeightsError, match=r"dnabert_s: weights are missing: encoder\.layer\.2\."):
            read_dnabert_s(folder)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"bert.encoder.layer.0.extra": torch.zeros(1)}, r"does not have: encoder\.layer\.0\.extra"),
            ({"bert.embeddings.LayerNorm.bias": torch.zeros(3)}, r"embeddings\.LayerNorm\.bias is \[3\]"),
            ({"bert.embeddings.LayerNorm.bias": None}, r"missing: embeddings\.LayerNorm\.bias"),
        ],
    )
    def test_any_other_mismatch_is_named(self, published, tmp_path, change, message):
        folder = dnabert_s(published.dna, tmp_path / "dna")
        weights = torch.load(folder / "pytorch_model.bin", weights_only=True) | change
        kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
        torch.save(kept, folder / "pytorch_model.bin")
        with pytest.raises(WeightsError, match=message):
            read_dnabert_s(folder)


class TestHead:
    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    def test_the_published_pickled_module_is_imported(self, published, tmp_path, legacy):
        path = save_classifier(published.head, tmp_path / "500_model.pth", legacy)
        assert_same_numbers(build(tmp_path / "bundle", published, head=path), published)

    def test_a_module_that_was_saved_on_a_gpu_is_imported(self, published, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        path = save_classifier(published.head, tmp_path / "500_model.pth")
        assert b"cuda:0" in path.read_bytes()
        assert_same_numbers(build(tmp_path / "bundle", published, head=path), published)

    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    def test_a_state_dict_is_imported(self, published, tmp_path, legacy):
        path = tmp_path / "head.pth"
        torch.save(published.head.state_dict(), path, _use_new_zipfile_serialization=not legacy)
        assert_same_numbers(build(tmp_path / "bundle", published, head=path), published)

    def test_a_safetensors_state_dict_is_imported(self, published, tmp_path):
        path = tmp_path / "head.safetensors"
        save_file(published.head.state_dict(), path)
        assert_same_numbers(build(tmp_path / "bundle", published, head=path), published)

    def test_the_head_of_a_bundle(self, published, tmp_path):
        first = build(tmp_path / "one", published)
        second = build(tmp_path / "two", published, head=first.file("head"))
        assert first.file("head").read_bytes() == second.file("head").read_bytes()

    def test_tensors_that_share_a_storage(self, published, tmp_path):
        head = trained_classifier()
        both = torch.cat([head.bn1.weight.detach(), head.bn1.bias.detach()])
        head.bn1.weight.data, head.bn1.bias.data = both[: checkpoints.HIDDEN], both[checkpoints.HIDDEN :]
        head.hidden_layer.weight.data = head.hidden_layer.weight.data.t().contiguous().t()
        path = save_classifier(head, tmp_path / "shared.pth")
        assert_same_numbers(build(tmp_path / "bundle", published, head=path), published)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: setattr(m.bn1, "eps", 1e-3), "bn1 has eps 0.001"),
            (lambda m: setattr(m, "extra", nn.Linear(2, 2)), "'extra' is a Linear, which VirNucPro's"),
            (lambda m: setattr(m, "bn1", nn.Linear(24, 24)), "'bn1' is a Linear, which VirNucPro's"),
            (lambda m: delattr(m, "bn1"), r"head: weights are missing: norm\.weight"),
            (lambda m: setattr(m, "output_layer", nn.Linear(24, 3)), r"output\.weight is \[3, 24\]"),
        ],
    )
    def test_another_architecture_is_refused(self, tmp_path, change, message):
        model = trained_classifier()
        change(model)
        with pytest.raises(BundleError, match=message):
            read_head(save_classifier(model, tmp_path / "500_model.pth"))

    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    @pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
    def test_a_truncated_file_is_refused_in_one_line(self, tmp_path, legacy, keep):
        path = save_classifier(trained_classifier(), tmp_path / "500_model.pth", legacy)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
        with pytest.raises(CheckpointError, match=r"500_model\.pth is damaged") as caught:
            read_head(path)
        assert "\n" not in str(caught.value)


def test_the_class_of_the_tests_is_the_published_one():
    """Its attributes, in the order in which VirNucPro's script assigns them."""
    assert list(dict(MLPClassifier(4, 3, 2).named_children())) == [
        "hidden_layer",
        "bn1",
        "output_layer",
        "dropout",
    ]
