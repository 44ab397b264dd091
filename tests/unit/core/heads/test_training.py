"""Training a head: it learns, what it is measured on is new to it, and its bundle scores as it does."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.features_fixture import Chunks, count_frames, written
from tests.support.models_fixture import random_bundle, random_frames
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.bundle.manifest import HeadConfig
from virnucpro_core.bundle.weights import weights_of
from virnucpro_core.evaluation.labels import Label
from virnucpro_core.evaluation.metrics import auroc
from virnucpro_core.heads.comparison import (
    Candidate,
    base_candidate,
    bundle_with_head,
    compare_heads,
    head_of,
)
from virnucpro_core.heads.feature_file import FeatureFile
from virnucpro_core.heads.head_metrics import LEVELS, agreement, fitted_temperature, head_metrics
from virnucpro_core.heads.splits import LabelledRecords, Part
from virnucpro_core.heads.training import HeadRecipe, head_margins, train_head
from virnucpro_core.models.classifier import Head, recalibrate
from virnucpro_core.models.engine import Engine

DIM = 12
QUICK = HeadRecipe(hidden=16, epochs=20, learning_rate=1e-2, dropout=0.2)
SURE = HeadRecipe(hidden=64, epochs=40, learning_rate=1e-2, dropout=0.0)


pytestmark = pytest.mark.usefixtures("one_thread")


def sigmoid(margins: NDArray[np.floating]) -> NDArray[np.floating]:
    return 1 / (1 + np.exp(-np.asarray(margins, dtype=np.float64)))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def labelled(count: int, groups: int = 0) -> dict[str, Label]:
    """Every second one a virus; with groups, all members of one have the same label."""
    return {f"r{n}": Label(n % 2 == 0, f"g{n % groups}" if groups else "") for n in range(count)}


def records_of(labels: dict[str, Label]) -> dict[str, Chunks]:
    return {name: [["F1", "R1"], ["F2"]] for name in labels}


def features_file(
    path: Path, labels: dict[str, Label], row: Callable[[str, np.random.Generator], NDArray[np.float64]]
) -> FeatureFile:
    """Three frames a record, each what `row` draws for it."""
    rng = np.random.default_rng(7)
    rows = np.array([row(name, rng) for name in labels for _ in range(3)], dtype=np.float32)
    return written(path, records_of(labels), rows)


def separable(labels: dict[str, Label]) -> Callable[[str, np.random.Generator], NDArray[np.float64]]:
    """One feature tells the label, the others are noise of which some is large and far from 0."""

    def row(name: str, rng: np.random.Generator) -> NDArray[np.float64]:
        found = rng.normal(size=DIM)
        found[3] += 2 if labels[name].is_virus else -2
        return found * 10.0 ** (np.arange(DIM) % 5 - 2) + np.arange(DIM) * 10

    return row


def fingerprints(of: Callable[[str], str]) -> Callable[[str, np.random.Generator], NDArray[np.float64]]:
    """Features that tell who it is, and nothing of the label."""

    def row(name: str, rng: np.random.Generator) -> NDArray[np.float64]:
        who = np.random.default_rng(zlib.crc32(of(name).encode()))
        return 3 * who.normal(size=DIM) + 0.1 * rng.normal(size=DIM)

    return row


def trained(file: FeatureFile, part: Part, recipe: HeadRecipe = QUICK) -> Head:
    return train_head(file.features, part.rows, part.frame_is_virus, recipe)


def frame_auroc(head: Head, file: FeatureFile, part: Part) -> float:
    return auroc(head_margins(head, file.features, part.rows), part.frame_is_virus)


class TestLearning:
    def test_it_learns_what_holds_for_new_groups(self, tmp_path: Path) -> None:
        labels = labelled(80, groups=20)
        file = features_file(tmp_path / "f", labels, separable(labels))
        training, held_out = LabelledRecords(file, labels).split(0.3, 1)
        head = trained(file, training)
        assert frame_auroc(head, file, held_out) > 0.97
        shuffled = np.random.default_rng(1).permutation(training.frame_is_virus)
        of_chance = train_head(file.features, training.rows, shuffled, QUICK)
        assert 0.1 < frame_auroc(of_chance, file, held_out) < 0.9

    @pytest.mark.parametrize("groups", [0, 40], ids=["records", "groups"])
    def test_what_only_tells_who_it_is_is_worth_nothing_on_those_held_out(
        self, tmp_path: Path, groups: int
    ) -> None:
        """Were frames held out, or members of a group, the head would know them: that is checked too."""
        labels = labelled(160 if groups else 80, groups)
        who = (lambda name: labels[name].group) if groups else (lambda name: name)
        file = features_file(tmp_path / "f", labels, fingerprints(who))
        training, held_out = LabelledRecords(file, labels).split(0.5, 1)
        head = trained(file, training, SURE)
        assert frame_auroc(head, file, training) > 0.97
        assert 0.2 < frame_auroc(head, file, held_out) < 0.8

        whole = LabelledRecords(file, labels).whole()
        by_frame = np.arange(len(whole.rows)) % 3 > 0
        leaky = train_head(file.features, whole.rows[by_frame], whole.frame_is_virus[by_frame], SURE)
        rest = head_margins(leaky, file.features, whole.rows[~by_frame])
        assert auroc(rest, whole.frame_is_virus[~by_frame]) > 0.97

    def test_both_labels_count_one_half(self, tmp_path: Path) -> None:
        """From noise nothing can be learned but how frequent the labels are."""
        labels = {f"r{n}": Label(n % 10 == 0) for n in range(200)}
        file = features_file(tmp_path / "f", labels, lambda _, rng: rng.normal(size=DIM))
        margins = head_margins(
            trained(file, LabelledRecords(file, labels).whole()), file.features, np.arange(600)
        )
        assert abs(margins.mean()) < 0.5  # log(1/9) is -2.2

    def test_the_scale_of_the_features_does_not_matter(self, tmp_path: Path) -> None:
        labels = labelled(40)
        file = features_file(
            tmp_path / "f", labels, lambda name, rng: rng.normal(size=DIM) + labels[name].is_virus
        )
        part = LabelledRecords(file, labels).whole()
        scaled = (file.features * 1000 + 300).astype(np.float32)
        plain, large = (
            head_margins(train_head(rows, part.rows, part.frame_is_virus, QUICK), rows, part.rows)
            for rows in (np.asarray(file.features), scaled)
        )
        assert np.abs(plain).max() > 1
        np.testing.assert_allclose(large, plain, atol=0.05)

    def test_a_constant_feature_does_no_harm(self, tmp_path: Path) -> None:
        labels = labelled(40)

        def row(name: str, rng: np.random.Generator) -> NDArray[np.float64]:
            found = rng.normal(size=DIM) + 2 * labels[name].is_virus
            found[:2] = 5, 5 + 1e-6 * rng.normal()
            return found

        file = features_file(tmp_path / "f", labels, row)
        part = LabelledRecords(file, labels).whole()
        head = trained(file, part)
        moved = file.features + np.where(np.arange(DIM) < 2, 1e-5, 0).astype(np.float32)
        before, after = (head_margins(head, rows, part.rows) for rows in (file.features, moved))
        np.testing.assert_allclose(after, before, atol=0.01)

    def test_the_norm_has_the_statistics_of_the_weights(self, tmp_path: Path) -> None:
        labels = labelled(64)  # 192 frames: eight equal steps
        file = features_file(tmp_path / "f", labels, lambda _, rng: rng.normal(size=DIM))
        head = trained(file, LabelledRecords(file, labels).whole(), HeadRecipe(8, epochs=1))
        hidden = head.hidden(torch.from_numpy(np.array(file.features)))
        torch.testing.assert_close(head.norm.running_mean, hidden.mean(dim=0), atol=1e-4, rtol=1e-4)

    def test_every_epoch_is_told(self, tmp_path: Path) -> None:
        labels = labelled(40)
        file = features_file(tmp_path / "f", labels, separable(labels))
        part = LabelledRecords(file, labels).whole()
        told: list[tuple[int, float]] = []
        train_head(file.features, part.rows, part.frame_is_virus, QUICK, lambda *epoch: told.append(epoch))
        assert [epoch for epoch, _ in told] == list(range(1, 21))
        assert told[-1][1] < told[0][1] / 1.5

    def test_one_label_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one frame of each label"):
            train_head(np.zeros((3, 2), np.float32), np.arange(3), np.ones(3, bool), QUICK)


def test_recalibrated_statistics_are_the_mean_over_the_batches() -> None:
    torch.manual_seed(1)
    head = Head(6, 5, dropout=0.5)
    momentum = head.norm.momentum
    features = [torch.randn(200, 6) * 3 + 1 for _ in range(3)]
    recalibrate(head, features[:1])
    recalibrate(head, iter(features))
    hidden = [head.hidden(batch) for batch in features]
    mean = torch.stack([values.mean(0) for values in hidden]).mean(0)
    variance = torch.stack([values.var(0) for values in hidden]).mean(0)
    assert torch.allclose(head.norm.running_mean, mean, atol=1e-5)
    assert torch.allclose(head.norm.running_var, variance, rtol=1e-4)
    assert not any(module.training for module in head.modules())
    assert head.norm.momentum == momentum


class TestDeterminism:
    def test_the_same_seed_gives_the_same_bits(self, tmp_path: Path) -> None:
        labels = labelled(40)
        file = features_file(tmp_path / "f", labels, separable(labels))
        part = LabelledRecords(file, labels).whole()
        before = torch.get_rng_state()
        first, again, other = (
            weights_of(trained(file, part, HeadRecipe(16, epochs=3, seed=seed)), torch.float32)
            for seed in (1, 1, 2)
        )
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["output.weight"], other["output.weight"])

    def test_a_frames_margin_does_not_depend_on_the_others(self, tmp_path: Path) -> None:
        labels = labelled(40)
        file = features_file(tmp_path / "f", labels, separable(labels))
        head = trained(file, LabelledRecords(file, labels).whole())
        every = head_margins(head, file.features, np.arange(120))
        np.testing.assert_array_equal(head_margins(head, file.features, np.arange(5, 60, 7)), every[5:60:7])


class TestFigures:
    @pytest.fixture
    def part(self, tmp_path: Path) -> Part:
        records: dict[str, Chunks] = {"a": [["F1", "F2"], ["F1"]], "b": [["F1"]], "c": [["F1"], ["F1", "R1"]]}
        labels = {"a": Label(True), "b": Label(False), "c": Label(False)}
        return LabelledRecords(
            written(tmp_path / "f", records, np.zeros((count_frames(records), 2))), labels
        ).whole()

    def test_the_levels_are_those_of_the_verdicts(self, part: Part) -> None:
        margins = np.array([3, -1, -4, -2, 2, -3, 0.5])
        chunks = np.array([(3 - 1) / 2, -4, -2, 2, (-3 + 0.5) / 2])
        found = head_metrics(margins, part, 2.0)
        assert tuple(found) == LEVELS
        assert [found[level]["pieces"] for level in LEVELS] == [5, 3, 3]
        is_virus = np.array([True, True, False, False, False])
        assert found["chunks"]["auroc"] == 0.3333  # 2 of 6 pairs
        assert found["chunks"]["accuracy"] == 0.6  # the chunk at -4 and that at 2 are wrong
        # means of chunks: a -1.5, b -2, c 0.375; by the rule: a (3 - 4) / 2, b -2, c (2 - 3) / 2
        assert found["records_by_mean_margin"]["auroc"] == 0.5
        assert found["records_by_verdict"]["auroc"] == 0.75
        assert found["records_by_verdict"]["sensitivity"] == 0.0
        # five different bins: the calibration error is the mean distance
        for temperature, name in ((2.0, "ece"), (1.0, "ece_before")):
            apart = np.abs(sigmoid(chunks / temperature) - is_virus).mean()
            assert found["chunks"][name] == pytest.approx(apart, abs=1e-4)

    def test_the_temperature_makes_scores_probabilities(self, tmp_path: Path) -> None:
        labels = labelled(2000)
        records: dict[str, Chunks] = {name: [["F1"]] for name in labels}
        part = LabelledRecords(written(tmp_path / "f", records, np.zeros((2000, 2))), labels).whole()
        rng = np.random.default_rng(1)
        # Normal margins of either label with means +-m and variance 2m are log odds; here they are tripled.
        margins = 3 * (np.where(part.frame_is_virus, 2, -2) + 2 * rng.normal(size=2000))
        found = fitted_temperature(margins, part)
        assert found == pytest.approx(3, rel=0.1)
        figures = head_metrics(margins, part, found)["chunks"]
        assert figures["ece"] < 0.03 < figures["ece_before"]

    def test_how_far_two_scorings_lie_apart(self, part: Part) -> None:
        one, other = np.array([3, -1, -4, -2, 1, -3, 0.5]), np.array([3, -1, -4, 2, 1, -3, -0.5])
        assert agreement(one, one, part) == {
            **dict.fromkeys(["frames_agree", *(f"{level}_agree" for level in LEVELS)], 1.0),
            "largest_score_difference": 0.0,
        }
        found = agreement(one, other, part)
        assert found["frames_agree"] == pytest.approx(5 / 7, abs=1e-6)
        assert found["chunks_agree"] == 0.8
        assert found["records_by_verdict_agree"] == pytest.approx(2 / 3, abs=1e-6)
        assert found["largest_score_difference"] == pytest.approx(sigmoid(2) - sigmoid(-2), rel=1e-2)


class TestComparison:
    def test_every_head_is_measured_on_every_file(self, tmp_path: Path) -> None:
        labels = labelled(80)
        first = features_file(tmp_path / "1", labels, separable(labels))
        turned = written(tmp_path / "2", records_of(labels), np.ascontiguousarray(first.features[:, ::-1]))
        files = {"packed": first, "v1": turned}
        training, held_out = LabelledRecords(first, labels).split(0.3, 1)
        heads = [Candidate(f"of {name}", trained(file, training), name) for name, file in files.items()]
        temperatures, found = compare_heads(
            files, [*heads, Candidate("base", heads[0].head, None, 1.5)], held_out
        )
        rows = {(row["head"], row["features"]): row for row in found["measured"]}
        assert set(rows) == {(f"{head}", name) for head in ("of packed", "of v1", "base") for name in files}
        assert rows["of packed", "packed"]["chunks"]["auroc"] > 0.95
        assert rows["of v1", "v1"]["chunks"]["auroc"] > 0.95
        assert rows["of packed", "v1"]["chunks"]["accuracy"] < 0.8  # the features are the other way round
        assert temperatures["base"] == 1.5
        margins = head_margins(heads[1].head, turned.features, held_out.rows)
        assert temperatures["of v1"] == fitted_temperature(margins, held_out)
        of_v1 = rows["of v1", "v1"]
        assert of_v1["temperature"] == rows["of v1", "packed"]["temperature"] == temperatures["of v1"] != 1
        assert of_v1["chunks"] == head_metrics(margins, held_out, temperatures["of v1"])["chunks"]
        pairs = [(pair["one"], pair["other"]) for pair in found["compared"]]
        ways = {name: {"head": f"of {name}", "features": name} for name in files}
        assert pairs[0] == (ways["packed"], ways["v1"])
        assert found["compared"][1]["chunks_agree"] < 0.8
        assert found["compared"][1]["largest_score_difference"] > 0.5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("base") / "tiny")


class TestBundle:
    def make(self, base: Bundle, output: Path, temperature: float) -> Bundle:
        torch.manual_seed(3)
        head = Head(base.manifest.feature_dim, 8).eval()
        with torch.no_grad():
            head.norm.running_mean.normal_()
        draft = replace(
            base.manifest,
            id="mine",
            head=HeadConfig(8),
            temperature=temperature,
            training={"seed": 3},
            validation={"chunks": 5},
        )
        return bundle_with_head(base, output, draft, weights_of(head, torch.float32))

    def test_it_scores_as_the_head_does_over_the_temperature(self, base: Bundle, tmp_path: Path) -> None:
        bundle = self.make(base, tmp_path / "mine", 2.5)
        frames = random_frames(40)
        features = Engine(base, device="cpu", self_test=False).features(frames).astype(np.float64)
        w = {name: tensor.double().numpy() for name, tensor in bundle.tensors("head").items()}
        hidden = features @ w["hidden.weight"].T + w["hidden.bias"]
        normed = (hidden - w["norm.running_mean"]) / np.sqrt(w["norm.running_var"] + 1e-5)
        kept = np.maximum(normed * w["norm.weight"] + w["norm.bias"], 0)
        logits = kept @ w["output.weight"].T + w["output.bias"]
        engine = Engine(bundle, device="cpu", self_test=False)
        np.testing.assert_allclose(engine.score(frames), softmax(logits / 2.5), atol=1e-6)
        assert np.abs(softmax(logits) - softmax(logits / 2.5)).max() > 0.01
        np.testing.assert_array_equal(engine.features(frames), features.astype(np.float32))

    def test_the_rest_is_taken_over_byte_for_byte(self, base: Bundle, tmp_path: Path) -> None:
        bundle = self.make(base, tmp_path / "mine", 0.7)
        for role in ("esm2", "dnabert_s", "tokenizer"):
            assert bundle.file(role).read_bytes() == base.file(role).read_bytes()
            assert bundle.manifest.files[role] == base.manifest.files[role]
        assert (bundle.manifest.id, bundle.manifest.temperature, bundle.manifest.head.hidden) == (
            "mine",
            0.7,
            8,
        )
        assert bundle.manifest.training == {"seed": 3}
        assert bundle.manifest.validation == {"chunks": 5}

    def test_the_head_that_a_bundle_has(self, base: Bundle, tmp_path: Path) -> None:
        bundle = self.make(base, tmp_path / "mine", 1.7)
        candidate = base_candidate(bundle)
        assert (candidate.title, candidate.trained_on, candidate.temperature) == ("base (mine)", None, 1.7)
        engine = Engine(bundle, device="cpu", self_test=False)
        frames = random_frames(5)
        margins = head_margins(candidate.head, engine.features(frames), np.arange(5))
        np.testing.assert_allclose(sigmoid(margins / 1.7), engine.score(frames)[:, 1], atol=1e-6)

    def test_weights_of_another_width_are_refused(self, base: Bundle) -> None:
        with pytest.raises(ValueError, match=r"head: hidden\.bias is \[24\], the model's is \[25\]"):
            head_of(base.tensors("head"), base.manifest.feature_dim, 25)
