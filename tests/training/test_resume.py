"""A training that is interrupted goes on to the same weights, to the last bit (on a CPU)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.training_fixture import data, tiny_recipe
from training.model import losses
from training.model.optim import Checkpoint, take_step
from training.runs import pretrain, train_head
from training.runs.train_head import HeadTraining, member_file, model_file, report_file
from training.runs.workspace import FINAL, TRIAL, Workspace

LENGTH = 500
RECIPE = tiny_recipe("head.ensemble=2")
STEPS = 4 + 2 * 4  # of the encoders, two members


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def work(out: Path, phase: str = TRIAL) -> Workspace:
    return Workspace(data().folder, out, phase, RECIPE, 1, torch.device("cpu"), out)


def train(out: Path) -> None:
    pretrain.pretrain(work(out))
    train_head.train_head(work(out), LENGTH)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Makes take_step raise on its `last`-th call from now on; gives a list of the calls that were made."""

    def interrupt(last: int) -> list[int]:
        taken: list[int] = []

        def step(*given: Any) -> None:
            if len(taken) == last:
                raise Interrupted
            take_step(*given)
            taken.append(len(taken))

        for module in (pretrain, train_head):
            monkeypatch.setattr(module, "take_step", step)
        return taken

    return interrupt


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    train(out)
    return out


def assert_equal(one: Path, other: Path) -> None:
    """The same tensors, and everything else that is in two saved states."""

    def compare(a: Any, b: Any, where: str) -> None:
        assert type(a) is type(b), where
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b), where
        elif isinstance(a, dict):
            assert a.keys() == b.keys(), where
            for key in a:
                compare(a[key], b[key], f"{where}.{key}")
        elif isinstance(a, list):
            assert len(a) == len(b), where
            for number, (x, y) in enumerate(zip(a, b, strict=True)):
                compare(x, y, f"{where}.{number}")
        else:
            assert a == b, where

    compare(*(torch.load(path, weights_only=True) for path in (one, other)), one.name)


def test_an_interrupted_run_goes_on_where_it_was_to_the_same_bits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: Path,
    steps: Callable[[int], list[int]],
) -> None:
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    done = 0
    # In the encoders at the first step and later, in the first member, between the two, in the second.
    for cut in (0, 2, 5, 8, 11):
        taken = steps(cut - done)
        with pytest.raises(Interrupted):
            train(tmp_path)
        done += len(taken)
        assert done == cut
        assert not report_file(work(tmp_path), LENGTH).exists()
    taken = steps(STEPS)
    train(tmp_path)
    # Nothing was done twice: it went on, it did not begin again.
    assert done + len(taken) == STEPS
    [encoders] = uninterrupted.glob("encoders-*.pt")
    assert_equal(tmp_path / encoders.name, encoders)
    for number in (1, 2):
        assert_equal(*(member_file(work(out), LENGTH, number) for out in (tmp_path, uninterrupted)))
    assert_equal(*(model_file(work(out), LENGTH) for out in (tmp_path, uninterrupted)))
    one, other = (json.loads(report_file(work(out), LENGTH).read_text()) for out in (tmp_path, uninterrupted))
    assert {k: v for k, v in one.items() if k != "seconds"} == {
        k: v for k, v in other.items() if k != "seconds"
    }
    assert not list(tmp_path.rglob("*.unfinished"))


def test_what_is_done_is_not_trained_again(uninterrupted: Path, steps: Callable[[int], list[int]]) -> None:
    taken = steps(0)
    pretrain.pretrain(work(uninterrupted))
    network, report = train_head.train_head(work(uninterrupted), LENGTH)
    assert taken == []
    saved = torch.load(model_file(work(uninterrupted), LENGTH), weights_only=True)["network"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in network.state_dict().items())
    assert report == json.loads(report_file(work(uninterrupted), LENGTH).read_text())
    assert not network.training


def test_the_model_is_the_mean_of_its_members_and_the_dev_split_is_measured(uninterrupted: Path) -> None:
    report = json.loads(report_file(work(uninterrupted), LENGTH).read_text())
    assert set(report["curves"]) == {"member 1", "member 2"}
    assert 0.2 <= report["temperature"] <= 5
    assert report["model"]["dev"] is not None
    files = [member_file(work(uninterrupted), LENGTH, n) for n in (1, 2)] + [
        model_file(work(uninterrupted), LENGTH)
    ]
    one, two, mean = (torch.load(file, weights_only=True)["network"] for file in files)
    for name in ("head.output.weight", "encoders.dnabert_s.embeddings.word_embeddings.weight"):
        assert not torch.equal(one[name], two[name])
        assert torch.allclose(mean[name], (one[name] + two[name]) / 2, atol=1e-7)
    # BatchNorm's statistics are of the mean's own features, not the mean of the members'.
    statistics = "head.norm.running_var"
    assert not torch.allclose(mean[statistics], (one[statistics] + two[statistics]) / 2, rtol=1e-6)


def test_the_head_needs_finished_encoders_of_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: Callable[[int], list[int]]
) -> None:
    with pytest.raises(FileNotFoundError, match=r"run training\.runs\.pretrain first"):
        HeadTraining(work(tmp_path), LENGTH)
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    steps(2)
    with pytest.raises(Interrupted):
        pretrain.pretrain(work(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"run training\.runs\.pretrain first"):
        HeadTraining(work(tmp_path), LENGTH)


def test_the_final_phase_trains_on_dev_and_measures_nothing_there(uninterrupted: Path) -> None:
    final = work(uninterrupted, FINAL)
    table = final.training(LENGTH)
    assert set(final.corpus.splits[table.chunk_record]) == {"train", "dev"}
    assert final.dev(LENGTH) is None
    _, report = train_head.train_head(final, LENGTH)
    assert set(report) == {"key", "seconds", "curves"}
    assert not any(report["curves"].values())


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "LOG_EVERY", 1)
    monkeypatch.setattr(losses, "hidden_token_loss", lambda logits, targets: logits.sum() * torch.nan)
    with pytest.raises(ValueError, match="not JSON compliant"):
        pretrain.pretrain(work(tmp_path))
