"""Cross-validates a recipe, trains it on everything and writes the bundles, in one command.

    python -m training.run --data DATA --out OUT

For each length the models without a fold and the model of everything are trained side by side, on all GPUs. The bundles
are OUT/everything/nano-500 and OUT/everything/nano-300: what is known of them is the cross-validation of their recipe,
and the probability of a record is fitted on its scores. What is done already is not done again, results of
training.runs.cross_validate and training.runs.sweep among it; with --minutes the command ends in time, and the same
command resumes it.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from training.progress import log
from training.recipe import LENGTHS
from training.reports.fold_metrics import MEASURES
from training.reports.record_scores import RecordScores, read_scores
from training.runs.cross_validate import (
    FOLDER,
    RECIPE,
    CrossValidation,
    Trial,
    result_file,
    result_key,
    scores_file,
)
from training.runs.export import draft_manifest, export, facts, is_there
from training.runs.runner import Runner, command
from training.runs.side_by_side import Training, arguments_of, make_tables, parser_of, train
from training.runs.train_head import train_head
from training.runs.workspace import EVERYTHING, Workspace, workspace
from virnucpro_core.evaluation.calibration_fit import fit_calibration
from virnucpro_core.hashing import sha256_of
from virnucpro_core.scoring.calibration import Calibration

COMMAND = "training.run"
MEASURED_BY = (
    "cross-validation: models of the same recipe, trained without the fold that they were measured on"
)
TABLES_S = 3600.0
"""Seconds that tables may take."""


def bundle_of(work: Workspace, length: int) -> Path:
    """Where the bundle is written."""
    return work.folder / f"nano-{length}"


def make_bundle(work: Workspace, length: int, judged: dict[str, Any], scores: Path) -> None:
    """The bundle of a model that was trained on all genomes.

    judged: what cross-validation says of the recipe; scores: its file of scores, on which the calibration is fitted.

    Raises:
        OSError, ValueError: see `read_scores`.
        CalibrationError: the scores do not rank viruses above others, or are of too few families.
    """
    target = bundle_of(work, length)
    network, _ = train_head(work, length)
    figures = {key: judged[key] for key in (*MEASURES, "right", "temperature")}
    draft = draft_manifest(
        network,
        target.name,
        length,
        judged["temperature"],
        facts(work, length, COMMAND, {"cross_validation": figures}),
    )
    found = read_scores(scores)
    validation = {"by": MEASURED_BY} | summary(judged) | found.metrics()
    draft = replace(draft, calibration=calibration_of(found, sha256_of(scores), length))
    export(network, target, replace(draft, validation=validation), work.tokenizer)
    log(bundle=target.name, phase=work.phase, **summary(judged))


def summary(judged: dict[str, Any]) -> dict[str, float]:
    """Mean and spread of the measures of cross-validation, by name."""
    found: dict[str, float] = {}
    for measure in MEASURES:
        found |= {measure: judged[measure]["mean"], f"{measure}_spread": judged[measure]["spread"]}
    return found


def calibration_of(scores: RecordScores, sha256: str, length: int) -> Calibration:
    """The probability of a record, fitted on the scores of cross-validation.

    sha256: of the file of the scores; length: bases of a chunk.

    Raises:
        CalibrationError: see `fit_calibration`.
    """
    found = fit_calibration(scores.labelled(length))
    facts = {"scores": {"by": MEASURED_BY, "sha256": sha256}}
    return replace(found, about=facts | found.about)


def read_result(folder: Path, length: int, key: str) -> dict[str, Any] | None:
    """What cross-validation wrote of the recipe and data that `key` names; None if it is not there.

    Raises:
        SystemExit: it is of another recipe or other data.
    """
    path = result_file(folder, length)
    if not (path.is_file() and scores_file(folder, length).is_file()):
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result["key"] != key:
        raise SystemExit(
            f"{path} is of another recipe or other data: repeat the options that it was made with, or choose another "
            "--name"
        )
    return result


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if something failed or there was no time for it."""
    parser = parser_of(__doc__)
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS), help="bases of a chunk")
    parser.add_argument(
        "--name",
        default=RECIPE,
        help=f"of the folder in OUT/{FOLDER}: that of a trial whose settings these are",
    )
    given = parser.parse_args(arguments)
    runner = Runner(given.devices, given.minutes * 60)
    work, trial = workspace(given, EVERYTHING), Trial(given.name, "as given", ())
    folder = given.out / FOLDER / given.name
    missing = [length for length in given.lengths if not is_there(work, bundle_of(work, length), length)]
    known = {length: read_result(folder, length, result_key(given, length)) for length in missing}
    done = True
    with ThreadPoolExecutor(1) as ahead:
        for length, following in zip_longest(missing, missing[1:]):
            validation = CrossValidation(given, [trial], length)
            everything = Training(given.name, given, EVERYTHING)
            trainings = [*([] if known[length] else validation.trainings), everything]
            make_tables(trainings, length)
            # Those of the next length meanwhile: they need no GPU.
            tables = ahead.submit(tables_of, everything, following) if following else None
            failures = train(trainings, length, runner)
            judged = known[length] or validation.result(trial, failures)
            if failures or "failed" in judged:
                done = False
            else:
                make_bundle(work, length, judged, scores_file(folder, length))
            if tables is not None:
                tables.result()
    return int(not done)


def tables_of(everything: Training, length: int) -> None:
    """Make the tables of a length in a process of its own; what fails is made again where it is needed."""
    more = [*arguments_of(everything), "--length", str(length)]
    failure = command("runs.tables", more, everything.work.folder / "log.jsonl", "cpu", TABLES_S)
    log(done="runs.tables", length=length, **({"failed": failure} if failure else {}))
