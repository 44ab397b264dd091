"""Everything from the prepared data to the bundles, in one command.

    python -m training.run --data DATA --out OUT

Pre-trains the encoders, trains a trial and a final model for each length, and writes the bundles OUT/nano-500 and
OUT/nano-300 with their metrics on the validation split, and OUT/nano-*.json with the whole reports. With --everything
the encoders and the model are trained on all genomes, validation among them, and the bundles are
OUT/everything/nano-500 and OUT/everything/nano-300: what is known of them is the cross-validation of their recipe, and
the probability of a record is fitted on its scores. What is done already is not done again; a run that was interrupted
goes on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from training.data.corpus import EXTRA, VALIDATION
from training.model.network import Network
from training.progress import log
from training.recipe import LENGTHS
from training.reports.baseline import CHUNKS
from training.reports.evaluate import evaluate, headline
from training.reports.fold_metrics import MEASURES
from training.reports.record_scores import RecordScores, read_scores
from training.runs.cross_validate import result_file, result_key, scores_file
from training.runs.export import data_list, draft_manifest, export
from training.runs.pretrain import pretrain
from training.runs.train_head import key_of, train_head
from training.runs.workspace import EVERYTHING, FINAL, TRIAL, Workspace, options, workspace
from virnucpro_core.bundle.bundle import read_manifest
from virnucpro_core.evaluation.calibration_fit import fit_calibration
from virnucpro_core.hashing import sha256_of
from virnucpro_core.scoring.calibration import Calibration

MEASURED_BY = (
    "cross-validation: models of the same recipe, trained without the fold that they were measured on"
)


def facts(work: Workspace, length: int, judged: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says about the training; `judged`: how its recipe was, by name."""
    cuda = work.device.type == "cuda"
    return {
        "command": "python -m training.run --data DATA --out OUT"
        + (" --everything RESULTS" if work.phase == EVERYTHING else ""),
        "key": key_of(work, length),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name(work.device) if cuda else "CPU",
        "recipe": asdict(work.recipe),
        "trained_on": list(work.splits),
        **judged,
        "data": data_list(work.corpus, with_extra=EXTRA in work.splits),
    }


def finish(
    work: Workspace, network: Network, length: int, temperature: float, training: dict[str, Any], chunks: int
) -> None:
    """Write the bundle nano-LENGTH with its metrics on the validation split, and the report beside it.

    The metrics are of the bundle as it is: with its temperature, its weights as they are stored, and through the
    service's engine. chunks: that the baseline is trained on.
    """
    name = f"nano-{length}"
    target, unmeasured = work.out / name, work.out / f"unmeasured-{length}"
    shutil.rmtree(unmeasured, ignore_errors=True)
    draft = draft_manifest(network, name, length, temperature, training)
    report = evaluate(
        export(network, unmeasured, draft, work.tokenizer),
        work.genomes,
        VALIDATION,
        work.splits,
        baseline_chunks=chunks,
        processes=work.processes,
        device=str(work.device),
        precision="fp32",
    )
    (work.out / f"{name}.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    export(network, target, replace(draft, validation=headline(report)), work.tokenizer)
    shutil.rmtree(unmeasured)
    log(bundle=name, **{level: report[level]["unseen_genera"] for level in ("chunk", "pieces_of_5kb")})


def is_there(work: Workspace, target: Path, length: int) -> bool:
    """Whether a bundle has been written.

    Raises:
        SystemExit: one of that name is there, of other data or another recipe.
    """
    if not target.exists():
        return False
    if read_manifest(target)[0].training.get("key") != key_of(work, length):
        raise SystemExit(f"{target} is of other data or another recipe: remove it, or choose another --out")
    return True


def make(trial: Workspace, final: Workspace, length: int, chunks: int) -> None:
    """The bundle for chunks of `length`, unless it is there.

    Raises:
        SystemExit: a bundle of that name is there, of other data or another recipe.
    """
    if is_there(final, final.out / f"nano-{length}", length):
        return
    _, report = train_head(trial, length)
    network, _ = train_head(final, length)
    judged = {"trial_on_dev": {key: value for key, value in report.items() if key not in ("key", "curves")}}
    finish(final, network, length, report["temperature"], facts(final, length, judged), chunks)


def make_of_everything(work: Workspace, length: int, judged: dict[str, Any], scores: Path) -> None:
    """The bundle of a model that was trained on all genomes, unless it is there.

    judged: see `read_result`; scores: the file of the scores of cross-validation, on which its calibration is fitted.

    Raises:
        SystemExit: a bundle of that name is there, of other data or another recipe.
        OSError, ValueError: see `read_scores`.
        CalibrationError: the scores do not rank viruses above others, or are of too few families.
    """
    name = f"nano-{length}"
    if is_there(work, work.folder / name, length):
        return
    network, _ = train_head(work, length)
    figures = {key: judged[key] for key in (*MEASURES, "right", "temperature")}
    draft = draft_manifest(
        network, name, length, judged["temperature"], facts(work, length, {"cross_validation": figures})
    )
    found = read_scores(scores)
    validation = {"by": MEASURED_BY} | summary(judged) | found.metrics()
    draft = replace(draft, calibration=calibration_of(found, sha256_of(scores), length))
    export(network, work.folder / name, replace(draft, validation=validation), work.tokenizer)
    log(bundle=name, phase=work.phase, **summary(judged))


def summary(judged: dict[str, Any]) -> dict[str, float]:
    """Mean and spread of the measures of `read_result`, by name."""
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


def read_result(folder: Path, length: int, key: str) -> dict[str, Any]:
    """What training.runs.cross_validate wrote of the recipe and data that `key` names.

    Raises:
        SystemExit: it is not there, or of another recipe or other data.
    """
    path = result_file(folder, length)
    if not path.is_file():
        raise SystemExit(f"{path} is not there: make it with python -m training.runs.cross_validate")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result["key"] != key:
        raise SystemExit(
            f"{path} is of another recipe or other data: repeat the options that it was made with, or make it again"
        )
    return result


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = options(__doc__)
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--baseline-chunks", type=int, default=CHUNKS)
    parser.add_argument(
        "--everything",
        type=Path,
        metavar="FOLDER",
        help="train on all genomes; FOLDER has the results of cross-validating this recipe",
    )
    given = parser.parse_args(arguments)
    if given.everything:
        results = [
            read_result(given.everything, length, result_key(given, length)) for length in given.lengths
        ]
        work = workspace(given, EVERYTHING)
        pretrain(work)
        for length, result in zip(given.lengths, results, strict=True):
            make_of_everything(work, length, result, scores_file(given.everything, length))
        return 0
    trial, final = workspace(given, TRIAL), workspace(given, FINAL)
    pretrain(trial)
    for length in given.lengths:
        make(trial, final, length, given.baseline_chunks)
    return 0
