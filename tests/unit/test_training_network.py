"""Training's torch side: the losses, the optimiser's parts, and that a bundle scores as the trained network."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.export import data_list, export
from training.loss import Weights, chunk_logits, classification_loss, masked_token_loss
from training.network import Batch, Network
from training.optimise import MovingAverage, learning_rate, parameter_groups, recalibrate
from training.shards import Sampling, training_shard
from training.train_tokenizer import sample_pieces, train_tokenizer
from virnucpro_core.models.classifier import Head
from virnucpro_core.models.engine import Engine
from virnucpro_core.prepare import prepare
from virnucpro_core.tokens import DnaTokenizer

from training.corpus import BalancedSampler, Corpus, TRAIN, VALIDATION  # isort: skip

CPU = torch.device("cpu")


def make_corpus() -> Corpus:
    """Two records of each label, one of either in the validation split."""
    rng = np.random.default_rng(7)
    letters = [rng.choice(np.frombuffer(b"ACGGCC", dtype=np.uint8), n) for n in (2500, 2500, 1700, 1700)]
    return Corpus(
        codes=np.concatenate(letters),
        starts=np.array([0, 2500, 5000, 6700, 8400]),
        ids=np.array(["v1", "b1", "v2", "b2"]),
        groups=np.array(["flu", "plant", "flu", "plant"]),
        splits=np.array([TRAIN, TRAIN, VALIDATION, VALIDATION]),
        labels=np.array([1, 0, 1, 0], dtype=np.uint8),
    )


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(sample_pieces(make_corpus(), 60, 150, seed=1), 64).save(str(path))
    return path


@pytest.fixture(scope="module")
def batch(tokenizer_file: Path) -> Batch:
    corpus = make_corpus()
    sampler = BalancedSampler(corpus.records_of(TRAIN), corpus.labels, corpus.groups, corpus.lengths)
    sampling = Sampling(seed=2, chunks=4, masked=1.0)
    return Batch.of(training_shard(corpus, sampler, DnaTokenizer(tokenizer_file), sampling, 0), CPU)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=4), min_size=1, max_size=5))
def test_the_chunk_s_margin_has_the_sign_of_virnucpro_s_verdict(chunks: list[list[float]]) -> None:
    margins = torch.tensor([margin for chunk in chunks for margin in chunk], dtype=torch.float64)
    frame_chunk = torch.tensor([number for number, chunk in enumerate(chunks) for _ in chunk])
    found = chunk_logits(margins, frame_chunk, len(chunks))
    for margin, chunk in zip(found.tolist(), chunks, strict=True):
        assert margin == pytest.approx((max(chunk) + min(chunk)) / 2, abs=1e-12)
        virus = [1 / (1 + math.exp(-m)) for m in chunk]
        difference = max(virus) - max(1 - score for score in virus)
        assert margin * difference >= 0 or abs(difference) < 1e-9


def test_losses() -> None:
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.5, 0.0]])
    chunk_of, label = torch.tensor([0, 0, 1]), torch.tensor([1.0, 0.0])
    soft = torch.tensor([1.0, 1.0, 0.0]) * 0.8 + 0.1
    margins = torch.tensor([2.0, -1.0, -0.5])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(margins, soft)
    only_frames = Weights(frame=1.0, chunk=0.0, smoothing=0.2)
    assert classification_loss(logits, chunk_of, label, only_frames) == pytest.approx(expected.item())
    only_chunks = Weights(frame=0.0, chunk=1.0, smoothing=0.0)
    expected = torch.log1p(torch.exp(torch.tensor([-0.5, -0.5]))).mean()
    assert classification_loss(logits, chunk_of, label, only_chunks) == pytest.approx(expected.item())
    assert masked_token_loss(torch.empty(0, 9), torch.empty(0, dtype=torch.int64)) == 0
    assert masked_token_loss(torch.zeros(3, 8), torch.tensor([0, 1, 7])) == pytest.approx(math.log(8))


def test_learning_rate_rises_then_falls_to_zero() -> None:
    assert learning_rate(2.0, 0.0, 0, 10) == pytest.approx(0.2)
    assert learning_rate(2.0, 0.0, 9, 10) == pytest.approx(2.0)
    assert learning_rate(2.0, 0.5, 99, 10) == pytest.approx(1.0)
    assert learning_rate(2.0, 1.2, 999, 10) == pytest.approx(0.0)


def test_recalibrated_statistics_are_the_mean_over_the_batches() -> None:
    torch.manual_seed(1)
    head = Head(6, 5, dropout=0.5)
    features = [torch.randn(200, 6) * 3 + 1 for _ in range(3)]
    recalibrate(head, features)
    hidden = [head.hidden(batch) for batch in features]
    mean = torch.stack([values.mean(0) for values in hidden]).mean(0)
    variance = torch.stack([values.var(0) for values in hidden]).mean(0)
    assert torch.allclose(head.norm.running_mean, mean, atol=1e-5)
    assert torch.allclose(head.norm.running_var, variance, rtol=1e-4)
    assert not any(module.training for module in head.modules())


def test_every_weight_that_a_bundle_holds_learns_and_the_average_follows(batch: Batch) -> None:
    torch.manual_seed(3)
    network = Network(64, dropout=0.1)
    average = MovingAverage(network, decay=0.9)
    optimizer = torch.optim.AdamW(parameter_groups(network, 0.0), lr=1e-3)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    logits, proteins, dna = network.train()(batch)
    loss = classification_loss(logits, batch.frame_chunk, batch.chunk_label, Weights())
    loss = (
        loss + masked_token_loss(proteins, batch.protein_targets) + masked_token_loss(dna, batch.dna_targets)
    )
    loss.backward()
    optimizer.step()
    average.update(network)
    unmoved = {name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])}
    assert {name for name in unmoved if "contact_head" not in name} == set()
    kept = dict(average.network.named_parameters())
    for name, parameter in network.named_parameters():
        expected = before[name] + (parameter.detach() - before[name]) * (1 - 2 / 11)
        assert torch.allclose(kept[name], expected, atol=1e-6), name


def test_a_bundle_scores_as_the_network_that_it_was_made_from(tmp_path: Path, tokenizer_file: Path) -> None:
    torch.manual_seed(4)
    corpus = make_corpus()
    network = Network(64, dropout=0.1)
    torch.nn.init.normal_(network.head.output.weight, std=2.0)
    bundle = export(
        network, tmp_path / "nano", tokenizer_file, 500, {"data": data_list(corpus)}, {"note": "none"}
    )
    assert bundle.manifest.training["data"][TRAIN]["ids"] == "b1 v1"
    assert bundle.manifest.training["data"][VALIDATION]["virus"] == {"records": 1, "bases": 1700}
    engine = Engine(bundle, device="cpu")
    frames = prepare("v1", corpus.sequence(0), 500, engine.tokenizer).frames
    expected = network.score(frames, CPU)
    assert np.ptp(expected[:, 1]) > 1e-3
    assert np.allclose(engine.score(frames), expected, atol=2e-3)
