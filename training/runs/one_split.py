"""Trains on one split and measures on another, for a recipe beside a baseline; it must not choose a recipe.

    python -m training.runs.one_split --data DATA --out OUT

Pre-trains the encoders, trains a trial and a final model for each length, and writes the bundles OUT/nano-500 and
OUT/nano-300 with their metrics on the validation split, and OUT/nano-*.json with the whole reports. What is done
already is not done again; a run that was interrupted goes on. training.run makes the bundles of the package.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from typing import Any

from training.data.corpus import VALIDATION
from training.model.network import Network
from training.progress import log
from training.recipe import LENGTHS
from training.reports.baseline import CHUNKS
from training.reports.evaluate import evaluate, headline
from training.runs.export import draft_manifest, export, facts, is_there
from training.runs.pretrain import pretrain
from training.runs.train_head import train_head
from training.runs.workspace import FINAL, TRIAL, Workspace, options, workspace

COMMAND = "training.runs.one_split"


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
    finish(final, network, length, report["temperature"], facts(final, length, COMMAND, judged), chunks)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = options(__doc__)
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--baseline-chunks", type=int, default=CHUNKS)
    given = parser.parse_args(arguments)
    trial, final = workspace(given, TRIAL), workspace(given, FINAL)
    pretrain(trial)
    for length in given.lengths:
        make(trial, final, length, given.baseline_chunks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
