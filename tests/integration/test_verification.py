"""The comparison of an imported model with the original VirNucPro's own numbers."""

from __future__ import annotations

import json
import os
from importlib.resources import files

import numpy as np
import pytest

from consumer.cli.app import run
from tests.support.checkpoints import (
    dnabert_s,
    fair_esm,
    save_classifier,
    trained_classifier,
    trained_esm2,
)
from tests.support.models_fixture import random_dnabert_s
from tests.support.small_tokenizer import small_tokenizer
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.bundle.manifest import DnabertSConfig, Esm2Config
from virnucpro_core.evaluation.verification import (
    DNA_DIM,
    compare,
    not_comparable,
    reference_features,
    reference_frames,
)
from virnucpro_core.importing.bundle_builder import build_bundle, read_sources
from virnucpro_core.models.precision import BF16, FP32, PRECISIONS

# Virus scores as the original printed them, in the order of the frames.
ORIGINAL_SCORES = (0.8789939, 0.9988405, 0.4498659, 0.93954605)


def original_scores() -> np.ndarray:
    """The original's scores, read from its frames without the module under test."""
    frames = json.loads((files("virnucpro_core") / "data" / "reference" / "frames.json").read_text())[
        "frames"
    ]
    return np.array([[frame["others"], frame["virus"]] for frame in frames], dtype=np.float32)


def test_the_original_agrees_with_itself():
    scores = original_scores()
    assert scores[:4, 1] == pytest.approx(ORIGINAL_SCORES, abs=1e-7)
    found = compare(reference_features(), scores, FP32.tolerance)
    assert found.agrees
    assert found.distance == 0
    assert found.cosine == pytest.approx(1, abs=1e-12)
    assert found.verdicts_equal == 8
    assert found.score_difference == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize(("times", "agrees"), [(0.9, True), (1.1, False)])
def test_features_are_accepted_up_to_the_tolerance(precision, times, agrees):
    features = reference_features()
    features[3] *= 1 + precision.tolerance.features * times
    found = compare(features, original_scores(), precision.tolerance)
    assert found.agrees is agrees
    assert found.frames[3].distance == pytest.approx(precision.tolerance.features * times, rel=1e-3)
    assert [frame.distance for frame in found.frames].count(0) == 7


def test_each_model_has_its_own_distance():
    features = reference_features()
    features[0, :DNA_DIM] *= 1.5
    features[1, DNA_DIM:] = -features[1, DNA_DIM:]
    first, second, *_ = compare(features, None, FP32.tolerance).frames
    assert (first.dna_distance, first.protein_distance) == (pytest.approx(0.5, rel=1e-6), 0)
    assert (second.dna_distance, second.protein_distance) == (0, pytest.approx(2, rel=1e-6))
    assert second.cosine < 0.9


def test_the_two_models_swapped_do_not_agree():
    features = reference_features()
    swapped = np.concatenate([features[:, DNA_DIM:], features[:, :DNA_DIM]], axis=1)
    assert not compare(swapped, None, BF16.tolerance).agrees


def test_nan_does_not_agree():
    features = reference_features()
    features[5, 100] = np.nan
    assert not compare(features, original_scores(), BF16.tolerance).agrees


def test_another_verdict_or_score_does_not_agree():
    scores = original_scores()
    scores[2] = 0.45, 0.55
    found = compare(reference_features(), scores, BF16.tolerance)
    assert found.verdicts_equal == 7
    assert not found.agrees
    scores = original_scores()
    scores[0] += (0.02, -0.02)
    found = compare(reference_features(), scores, FP32.tolerance)
    assert (found.verdicts_equal, found.agrees) == (8, False)


def test_another_classifier_is_compared_by_features_only():
    found = compare(reference_features(), None, FP32.tolerance)
    assert found.agrees
    assert found.score_difference is None
    assert {frame.original_verdict for frame in found.frames} == {None}


def test_the_software_finds_the_originals_frames():
    frames = reference_frames(small_tokenizer())
    assert [len(frame.protein_ids) for frame in frames][:4] == [60, 59, 59, 58]


def test_other_dimensions_cannot_be_compared():
    manifest = Bundle.load(find_bundle("nano")).manifest
    assert not_comparable(manifest) == (
        "the reference is of the published models, 768 + 2560 features; this one has 192 + 128"
    )


@pytest.fixture(scope="module")
def of_published_width(tmp_path_factory) -> dict[int, Bundle]:
    """Bundles of random models as wide as the published ones, a layer deep; by expected length."""
    folder = tmp_path_factory.mktemp("wide")
    dna = dnabert_s(random_dnabert_s(DnabertSConfig(1, 768, 12, 64, 15)), folder / "dna")
    esm2 = fair_esm(trained_esm2(Esm2Config(1, 2560, 40)).half(), folder / "esm2.pt")
    head = save_classifier(trained_classifier(3328, 16), folder / "500_model.pth")
    sources = read_sources(esm2, dna, head, None)
    return {
        length: build_bundle(sources, folder / f"wide-{length}", "wide", length, lambda _: None)
        for length in (500, 300)
    }


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith("VIRNUCPRO_")]:
        monkeypatch.delenv(name)


def test_verify_prints_the_comparison_and_refuses_what_differs(of_published_width, capsys):
    path = str(of_published_width[500].path)
    assert run(["models", "verify", path, "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert "original   DIFFERS: relative L2 distance of the features" in out
    assert "of 8 verdicts are the same" in out
    rows = [line for line in out.splitlines() if "_chunk_1" in line]
    assert len(rows) == 8
    assert rows[0].startswith("synthetic_seq_1_chunk_1R1 ")
    assert " 0.878994 " in rows[0]
    assert "the model does not give the original VirNucPro's numbers" in err


def test_verify_of_a_model_for_300_bases_as_json(of_published_width, capsys):
    path = str(of_published_width[300].path)
    assert run(["models", "verify", path, "--device", "cpu", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["precision"] == "fp32"
    assert found["self_test"]["per_token"] <= 1e-5
    assert found["original"]["agrees"] is False
    assert found["original"]["score_difference"] is None
    assert found["original"]["frames"][0]["virus_score"] is None
    assert found["original"]["distance"] > 0.1
