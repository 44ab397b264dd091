"""Predictions do not diverge between the packed and the v1.0-compatible attention, with the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.harness import serving, virnucpro, wait_until
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.evaluation.divergence import frames_of_proteins, measure, published_proteins
from virnucpro_core.models.engine import Engine

SAMPLE = Path(__file__).parents[2] / "consumer" / "data" / "sample.fasta"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Bundle.load(find_bundle("nano")), device="cpu")


def test_the_published_proteins_packed_together_do_not_diverge(engine):
    frames = frames_of_proteins(published_proteins(), engine.tokenizer)
    packed, v1 = engine.on_path(v1=False), engine.on_path(v1=True)
    assert (packed.info.attention, v1.info.attention) == ("packed", "v1")
    found = measure(packed, v1, frames, engine.default_token_budget)
    assert found.frames == 18
    assert found.label_agreement == 1.0
    assert found.confidence_correlation == pytest.approx(1.0, abs=5e-7)
    assert found.cosine_min > 0.999999
    assert found.mean_absolute_difference < 1e-5
    assert found.within_1e3 == 1.0


def test_the_command_prints_the_figures_of_the_report():
    done = virnucpro("divergence", "--fasta", str(SAMPLE), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == "nano-500"
    assert set(report["sets"]) == {"published proteins", str(SAMPLE)}
    for figures in report["sets"].values():
        assert figures["label_agreement"] == 1.0
        assert figures["advice"] == "accept"
    frames = virnucpro("frames", str(SAMPLE), "--expected-length", "500").stdout.splitlines()
    scored = [line for line in frames if json.loads(line)["frame"] is not None]
    assert report["sets"][str(SAMPLE)]["frames"] == len(scored)


def test_a_running_service_measures_itself(tmp_path):
    with serving(tmp_path / "serve.log", VIRNUCPRO_DIVERGENCE_SAMPLE="1") as serve:
        assert virnucpro("publish", str(SAMPLE), "--bootstrap", serve.bootstrap).returncode == 0
        scored = len(virnucpro("frames", str(SAMPLE), "--expected-length", "500").stdout.splitlines())
        wait_until(lambda: serve.metric("vnp_records_total", outcome="predicted") == 40, "every prediction")
        frames = serve.metric("vnp_frames_total")
        assert 0 < frames <= scored
        wait_until(
            lambda: serve.metric("vnp_divergence_frames_total", labels="equal") == frames,
            "every frame compared",
        )
        assert serve.metric("vnp_divergence_frames_total", labels="different") == 0
        assert serve.metric("vnp_divergence_batches_total", outcome="failed") == 0
        assert serve.metric("vnp_divergence_score_difference_sum") < 1e-3
