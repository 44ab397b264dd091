"""Trains models side by side, each without one fold or on everything: the encoders of each, then its model.

What several of them have in common is made once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from training.progress import log
from training.runs.pretrain import LENGTH, encoders_file
from training.runs.runner import Job, Runner, command
from training.runs.workspace import Workspace, options, workspace


@dataclass(frozen=True, slots=True)
class Training:
    """One phase of one recipe.

    Attributes:
        name: of the recipe.
        given: the options of `training.runs.workspace`.
        phase: of `training.runs.workspace`.
    """

    name: str
    given: argparse.Namespace
    phase: str

    @property
    def work(self) -> Workspace:
        """Where it reads and writes."""
        return workspace(self.given, self.phase)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Options of the commands that train side by side."""
    parser = options(description)
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    parser.add_argument(
        "--devices",
        nargs="+",
        default=gpus or ["cpu"],
        help="like cuda:0; twice for two at once; cpu is one core",
    )
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="to end within")
    return parser


def make_tables(trainings: Iterable[Training], length: int) -> None:
    """The tables that models for chunks of `length` bases, and their encoders, are trained on and judged by."""
    made: set[tuple[str, str]] = set()
    for training in trainings:
        work = training.work
        if (training.phase, work.key("data")) not in made:
            made.add((training.phase, work.key("data")))
            for each in {LENGTH, length}:
                work.training_file(each)
            work.left_out_file(length)


def train(trainings: Sequence[Training], length: int, runner: Runner) -> dict[tuple[str, str], str]:
    """Train encoders, then models for chunks of `length` bases, of which the tables are there.

    What is done already is not done again. One that fails does not stop the others.

    Returns:
        Why what failed did, by recipe and phase.
    """
    failures: dict[tuple[str, str], str] = {}
    sharing: dict[Path, list[Training]] = {}
    for training in trainings:
        sharing.setdefault(encoders_file(training.work).path, []).append(training)
    # Long pre-training first, or all would wait for it in the end.
    groups = sorted(sharing.values(), key=lambda group: -group[0].work.recipe.pretrain.optimiser.steps)

    def do(training: Training, module: str, more: Sequence[str], device: str, seconds: float) -> None:
        file = training.work.folder / "log.jsonl"
        given = [*arguments_of(training), "--phase", training.phase, *more]
        failure = command(module, given, file, device, seconds)
        failed = {"failed": failure} if failure else {}
        log(done=module, trial=training.name, phase=training.phase, length=length, **failed)
        if failure:
            # The first is the cause of what follows.
            failures.setdefault((training.name, training.phase), failure)

    def jobs() -> Iterator[tuple[Job, list[Job]]]:
        for group in groups:
            heads: list[Job] = [
                partial(do, one, "runs.train_head", ("--length", str(length))) for one in group
            ]
            yield partial(do, group[0], "runs.pretrain", ()), heads

    runner.run(jobs())
    return failures


def arguments_of(training: Training) -> list[str]:
    """The options of a command that does a part of it, but for the phase."""
    given, work = training.given, training.work
    places = {"--data": work.data, "--out": work.out, "--cache": work.cache, "--recipe": given.recipe}
    found = [str(word) for pair in places.items() for word in pair]
    found += ["--processes", str(work.processes)]
    return found + [word for change in given.set for word in ("--set", change)]
