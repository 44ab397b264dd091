"""The parts of the training loops."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.training_fixture import tiny_recipe
from training.model.network import Network
from training.model.optim import (
    Checkpoint,
    MovingAverage,
    Optimisers,
    learning_rate,
    mean_of,
    take_step,
)
from training.runs.train_head import is_eval_step

RECIPE = tiny_recipe()
OPTIMISER = replace(
    RECIPE.head.optimiser, steps=100, lr=2.0, warmup_steps=10, weight_decay=0.1, ema_decay=0.9
)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    assert learning_rate(OPTIMISER, 0) == pytest.approx(0.2, rel=0.01)
    assert learning_rate(OPTIMISER, 50) == pytest.approx(1.0)
    assert learning_rate(OPTIMISER, 100) == 0
    assert learning_rate(replace(OPTIMISER, steps=10**9), 9) == pytest.approx(2.0)
    assert learning_rate(replace(OPTIMISER, warmup_steps=0), 0) == pytest.approx(2.0)


@pytest.mark.parametrize(("steps", "evals"), [(800, 4), (3, 2), (5, 5), (2, 4), (7, 0)])
def test_dev_is_measured_in_even_steps_and_at_the_end(steps: int, evals: int) -> None:
    found = [step for step in range(steps) if is_eval_step(step, steps, evals)]
    assert len(found) == min(evals, steps)
    assert not evals or found[-1] == steps - 1


@pytest.mark.parametrize("muon", [0, 1])
def test_every_weight_of_a_bundle_learns_matrices_decay_and_parts_have_rates_of_their_own(muon: int) -> None:
    network = Network(RECIPE.shape, 64)
    optimisers = Optimisers(network, replace(OPTIMISER, muon=muon), (0.3, 0.5, 1.0))
    groups: dict[tuple[float, float], set[int]] = {}
    for group in optimisers.groups:
        members = groups.setdefault((group["lr_ratio"], group["weight_decay"]), set())
        assert not members & {id(p) for p in group["params"]}
        members |= {id(p) for p in group["params"]}
    assert len(groups) == 6
    for name, parameter in network.named_parameters():
        place = [key for key, members in groups.items() if id(parameter) in members]
        if "contact_head" in name:
            assert place == []
            continue
        share = 0.5 if "dna" in name or "codon" in name else 1.0 if name.startswith("head.") else 0.3
        assert place == [(share, 0.1 if parameter.ndim >= 2 else 0.0)], name


def test_muon_updates_the_matrices_of_the_layers_by_steps_as_large_as_adamws() -> None:
    torch.manual_seed(1)
    steps: dict[int, dict[str, float]] = {}
    for muon in (0, 1):
        torch.manual_seed(2)
        network = Network(RECIPE.shape, 64)
        optimisers = Optimisers(network, replace(OPTIMISER, muon=muon, weight_decay=0.0))
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        loss = sum((p * torch.randn_like(p)).sum() for part in network.parts for p in part)
        assert isinstance(loss, torch.Tensor)
        take_step(optimisers, network, loss, 1e-3)
        after = dict(network.named_parameters())
        steps[muon] = {
            n: (after[n] - b).square().mean().sqrt().item()
            for n, b in before.items()
            if after[n].grad is not None
        }
        turned = {n for n, p in after.items() if any(p is each for each in network.layer_matrices)}
    other = {name for name, size in steps[0].items() if steps[1][name] != pytest.approx(size, rel=1e-3)}
    assert other == turned
    assert {name.split(".")[1] for name in turned} == {"esm2", "dnabert_s"}
    # AdamW's first step is lr for each weight; a matrix turned into an orthogonal one, scaled, 0.2 of it.
    assert all(0.1e-3 < steps[1][name] < 0.3e-3 for name in turned)


def test_a_part_whose_gradient_jumps_holds_none_of_the_others_back() -> None:
    network = Network(RECIPE.shape, 64)
    optimisers = Optimisers(network, OPTIMISER)
    of_protein, of_dna, of_head = network.parts
    loss = of_protein[0].sum() * 1e6 + of_dna[0].sum() * 1e-3 + of_head[0].sum() * 1e-3
    take_step(optimisers, network, loss, 1e-3)
    norms = [torch.linalg.vector_norm(part[0].grad).item() for part in (of_protein, of_dna, of_head)]
    small = [1e-3 * part[0].numel() ** 0.5 for part in (of_dna, of_head)]
    assert norms == pytest.approx([1.0, *small], rel=1e-3)


def test_the_moving_average_follows_and_never_trains() -> None:
    torch.manual_seed(3)
    network = Network(RECIPE.shape, 64)
    average = MovingAverage(network, 0.9)
    optimisers = Optimisers(network, OPTIMISER)
    expected = copy.deepcopy(network)
    for step in range(120):
        if step < 2:
            take_step(optimisers, network, network.head(torch.randn(8, 64)).square().mean(), 1e-2)
        average.update(network)
        decay = min(0.9, (2 + step) / (11 + step))
        for kept, new in zip(expected.parameters(), network.parameters(), strict=True):
            kept.data.mul_(decay).add_(new.data, alpha=1 - decay)
        if step in (0, 1, 119):
            for name, parameter in average.network.named_parameters():
                assert torch.allclose(parameter, expected.get_parameter(name), atol=1e-6), name
    moved = network.head.output.weight
    assert torch.allclose(average.network.head.output.weight, moved, atol=1e-5)
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_the_mean_of_networks_is_of_all_their_weights() -> None:
    one, two = (Network(RECIPE.shape, 64) for _ in range(2))
    for name, parameter in mean_of([one, two]).named_parameters():
        expected = (one.get_parameter(name) + two.get_parameter(name)) / 2
        assert torch.allclose(parameter, expected, atol=1e-7), name


class TestCheckpoint:
    def test_what_is_saved_comes_back_under_its_own_key_only(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "state.pt"
        assert Checkpoint(path, "a").load() is None
        Checkpoint(path, "a").save(
            {"step": 3, "weights": torch.arange(4), "curve": [{"step": 1, "dev": None}]}
        )
        found = Checkpoint(path, "a").load()
        assert found is not None
        assert (found["step"], found["curve"]) == (3, [{"step": 1, "dev": None}])
        assert torch.equal(found["weights"], torch.arange(4))
        assert Checkpoint(path, "b").load() is None
        assert [file.name for file in path.parent.iterdir()] == ["state.pt"]
        Checkpoint(path, "a").remove()
        assert Checkpoint(path, "a").load() is None

    def test_a_save_that_fails_leaves_the_one_before(self, tmp_path: Path) -> None:
        checkpoint = Checkpoint(tmp_path / "state.pt", "a")
        checkpoint.save({"step": 1})
        with pytest.raises((AttributeError, TypeError)):
            checkpoint.save({"step": 2, "bad": (one for one in ())})
        found = checkpoint.load()
        assert found is not None
        assert found["step"] == 1

    def test_it_is_due_after_a_while(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [100.0]
        monkeypatch.setattr("training.model.optim.time.monotonic", lambda: now[0])
        checkpoint = Checkpoint(tmp_path / "state.pt", "a")
        now[0] += 59
        assert not checkpoint.due()
        now[0] += 2
        assert checkpoint.due()
        checkpoint.save({"step": 1})
        assert not checkpoint.due()
