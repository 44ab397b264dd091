"""Trains and judges a recipe by cross-validation over families and genera (training/folds.tsv).

    python -m training.runs.cross_validate --data DATA --out OUT --length 500

For each fold a model is trained on the genomes of the others, encoders included, and scores those of the fold; the
validation split has no part in it. Folds run side by side on all GPUs. Writes, in OUT/cross-validation/recipe,
result-LENGTH.json and scores-LENGTH.jsonl, the scores of records by models that had not seen their family or genus;
training.reports.fold_metrics and training.reports.record_scores say what is in either. What is done is not repeated:
with --minutes the command ends in time, and the same command resumes it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.progress import log
from training.reports.fold_metrics import LeftOut, judge
from training.reports.record_scores import write_scores
from training.runs.pretrain import LENGTH, encoders_file
from training.runs.runner import Runner, command
from training.runs.train_head import key_of, margins_file, report_file
from training.runs.workspace import Workspace, fold_phase, options, workspace
from virnucpro_core.atomic_files import atomic_write

FOLDER = "cross-validation"
RECIPE = "recipe"


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe: its name, why it is there, and the settings that it changes, as for --set."""

    name: str
    why: str
    changes: tuple[str, ...]


def result_file(folder: Path, length: int) -> Path:
    """What cross-validation says of the recipe of a folder."""
    return folder / f"result-{length}.json"


def scores_file(folder: Path, length: int) -> Path:
    """The scores of the records, each by the model that had not seen its family or genus."""
    return folder / f"scores-{length}.jsonl"


def result_key(given: argparse.Namespace, length: int) -> str:
    """Names the recipe, the data and the folds that a result is of; given: the options of `workspace`."""
    return key_of(workspace(given, fold_phase(1)), length)


class CrossValidation:
    """Recipes that are judged in one folder.

    Args:
        given: the options of `training.runs.workspace`.
        trials: the recipes.
        length: bases of a chunk.
    """

    def __init__(self, given: argparse.Namespace, trials: Sequence[Trial], length: int) -> None:
        self._given, self._trials, self._length = given, trials, length
        self._failures: dict[str, str] = {}
        self._folds = range(1, self.work(trials[0], 1).folds.count + 1)

    def options(self, trial: Trial) -> argparse.Namespace:
        """The options of `workspace`, for a trial."""
        given = self._given
        return argparse.Namespace(
            **vars(given)
            | {
                "out": given.out / FOLDER / trial.name,
                "cache": given.cache or given.out,
                "set": [*given.set, *trial.changes],
            }
        )

    def work(self, trial: Trial, fold: int) -> Workspace:
        """The workspace of a trial without a fold."""
        return workspace(self.options(trial), fold_phase(fold))

    def run(self, runner: Runner) -> None:
        """Tables, then encoders, then heads, of all folds; a trial that fails does not stop the others."""
        sharing: dict[Path, list[tuple[Trial, int]]] = {}
        made: set[tuple[int, str]] = set()
        for fold in self._folds:
            for trial in self._trials:
                work = self.work(trial, fold)
                if (fold, work.key("data")) not in made:
                    made.add((fold, work.key("data")))
                    for length in {LENGTH, self._length}:
                        work.training_file(length)
                    work.left_out(self._length)
                sharing.setdefault(encoders_file(work).path, []).append((trial, fold))
        log(tables="done")
        # Long pre-training first, or all would wait for it in the end.
        groups = sorted(
            sharing.values(), key=lambda group: -self.work(*group[0]).recipe.pretrain.optimiser.steps
        )
        head = ("--length", str(self._length))
        runner.run(
            (
                partial(self._do, "runs.pretrain", *group[0], ()),
                [partial(self._do, "runs.train_head", trial, fold, head) for trial, fold in group],
            )
            for group in groups
        )

    def _do(
        self, module: str, trial: Trial, fold: int, more: Sequence[str], device: str, seconds: float
    ) -> None:
        work = self.work(trial, fold)
        given = [
            "--data",
            work.data,
            "--out",
            work.out,
            "--cache",
            work.cache,
            "--recipe",
            self._given.recipe,
        ]
        given += ["--processes", work.processes, "--phase", work.phase]
        changes = [word for one in (*self._given.set, *trial.changes) for word in ("--set", one)]
        failure = command(
            module, [*map(str, given), *changes, *more], work.folder / "log.jsonl", device, seconds
        )
        log(done=module, trial=trial.name, fold=fold, **({"failed": failure} if failure else {}))
        if failure:
            self._failures.setdefault(trial.name, failure)  # the first is the cause of what follows

    def result(self, trial: Trial) -> dict[str, Any]:
        """What the folds say of a trial, which is written too; only with `failed` if one is missing."""
        row: dict[str, Any] = {"name": trial.name, "why": trial.why, "set": list(trial.changes)}
        works = [self.work(trial, fold) for fold in self._folds]
        reports = [
            json.loads(path.read_text()) if (path := report_file(work, self._length)).exists() else {}
            for work in works
        ]
        done = all(
            report.get("key") == key_of(work, self._length)
            for work, report in zip(works, reports, strict=True)
        )
        if trial.name in self._failures or not done:
            return row | {"failed": self._failures.get(trial.name, "not run")}
        left_out = []
        for fold, work in zip(self._folds, works, strict=True):
            table = work.left_out(self._length)
            assert table is not None  # the phase leaves a fold out
            left_out.append(LeftOut(fold, table, np.load(margins_file(work, self._length))))
        corpus, folds = works[0].corpus, works[0].folds
        row |= {
            "key": result_key(self.options(trial), self._length),
            "length": self._length,
            **judge(left_out, corpus, folds),
            "seconds": round(sum(report["seconds"] for report in reports), 1),
        }
        path = result_file(works[0].out, self._length)
        with atomic_write(path) as (unfinished,):
            unfinished.write_text(json.dumps(row, indent=1, allow_nan=False) + "\n")
        scores = scores_file(works[0].out, self._length)
        write_scores(scores, left_out, corpus, self._length, row["temperature"])
        return row


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Options of the commands that cross-validate."""
    parser = options(description)
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    parser.add_argument("--length", type=int, default=LENGTH, help="bases of a chunk")
    parser.add_argument(
        "--devices",
        nargs="+",
        default=gpus or ["cpu"],
        help="like cuda:0; twice for two at once; cpu is one core",
    )
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="to end within")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a fold failed or there was no time for it."""
    given = parser_of(__doc__).parse_args(arguments)
    trial = Trial(RECIPE, "as given", ())
    validation = CrossValidation(given, [trial], given.length)
    validation.run(Runner(given.devices, given.minutes * 60))
    result = validation.result(trial)
    log(**result)
    return int("failed" in result)


if __name__ == "__main__":
    sys.exit(main())
