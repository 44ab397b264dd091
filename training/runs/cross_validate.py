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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.progress import log
from training.reports.fold_metrics import LeftOut, judge
from training.reports.record_scores import write_scores
from training.runs.pretrain import LENGTH
from training.runs.runner import Runner
from training.runs.side_by_side import Training, make_tables, parser_of, train
from training.runs.train_head import key_of, margins_file, report_file
from training.runs.workspace import Workspace, fold_phase, workspace
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
        self._folds = range(1, workspace(given, fold_phase(1)).folds.count + 1)

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

    @property
    def trainings(self) -> list[Training]:
        """Each trial without each fold."""
        return [
            Training(trial.name, self.options(trial), fold_phase(fold))
            for fold in self._folds
            for trial in self._trials
        ]

    def result(self, trial: Trial, failures: Mapping[tuple[str, str], str]) -> dict[str, Any]:
        """What the folds say of a trial, which is written too; only with `failed` if one is missing.

        failures: see `train`.
        """
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
        failed = [failures[key] for work in works if (key := (trial.name, work.phase)) in failures]
        if failed or not done:
            return row | {"failed": next(iter(failed), "not run")}
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


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a fold failed or there was no time for it."""
    parser = parser_of(__doc__)
    parser.add_argument("--length", type=int, default=LENGTH, help="bases of a chunk")
    given = parser.parse_args(arguments)
    trial = Trial(RECIPE, "as given", ())
    validation = CrossValidation(given, [trial], given.length)
    make_tables(validation.trainings, given.length)
    failures = train(validation.trainings, given.length, Runner(given.devices, given.minutes * 60))
    result = validation.result(trial, failures)
    log(**result)
    return int("failed" in result)


if __name__ == "__main__":
    sys.exit(main())
