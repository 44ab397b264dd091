"""Compares recipes by cross-validation, side by side on all GPUs, and says which one to take.

    python -m training.runs.sweep --data DATA --out OUT --sweep training/sweep.toml

A trial is recipe.toml with some settings changed, judged as by training.runs.cross_validate. Trials with the same
tables or encoders share them. Writes OUT/sweep.json and OUT/sweep.md; what each fold prints is in
OUT/cross-validation/NAME/FOLD/log.jsonl. What is done is not repeated: with --minutes the command ends in time, and
the same command resumes it.

Recipes are compared by the mean over the folds of the AUROC. The recipe with the highest mean is the best; one that it
surpasses by no more than the spread (standard deviation over the folds) of their difference is as good: the difference
is luck. Of those that are as good the simplest is chosen: the fewest weights in the bundle; then the fewest techniques
that are on (`TECHNIQUES`); then the fewest frames trained on; then the fewest changed settings; then the first in the
file.
"""

from __future__ import annotations

import json
import statistics
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from training.model.network import Network
from training.progress import log
from training.recipe import DEFAULT, Recipe
from training.runs.cross_validate import CrossValidation, Trial
from training.runs.pretrain import LENGTH
from training.runs.runner import Runner
from training.runs.side_by_side import make_tables, parser_of, train

SWEEP = DEFAULT.with_name("sweep.toml")
TECHNIQUES = {
    "data": ("stitched", "recoded", "recoded_prokaryotes", "mutated", "extra_weight"),
    "pretrain": ("protein_masked", "dna_masked", "lm_weight", "pairs_weight"),
    "head": ("dropout", "smoothing", "masked", "lm_weight", "pairs_weight"),
}
"""Settings that are a technique, and 0 where it is not used; an ensemble of more than one is another."""
_SHOWN = ("bacteria", "plant", "invertebrate", "protozoa", "fungi", "viruses")


def read(path: Path, recipe: Path = DEFAULT) -> list[Trial]:
    """The trials of a file: a section each, with `why` and `set`, a list of settings.

    Raises:
        ValueError: a section lacks one of the two or has more, or a setting is not one of the recipe.
        OSError: a file cannot be read.
    """
    found = []
    for name, content in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if not isinstance(content, dict) or set(content) != {"why", "set"}:
            raise ValueError(f"{name}: a trial has `why` and `set`, and nothing else")
        Recipe.load(recipe, content["set"])
        found.append(Trial(name, str(content["why"]), tuple(content["set"])))
    return found


def complexity(recipe: Recipe, vocabulary: int, changes: int) -> tuple[int, int, int, int]:
    """What makes a recipe simpler than another, the first that differs: weights of the bundle, techniques, frames
    trained on, changed settings. vocabulary: ids of the nucleotide tokenizer."""
    network = Network(recipe.shape, vocabulary)
    modules = (network.encoders.esm2, network.encoders.dnabert_s, network.head)
    weights = sum(weight.numel() for module in modules for weight in module.parameters())
    techniques = sum(
        getattr(getattr(recipe, section), name) > 0 for section, names in TECHNIQUES.items() for name in names
    ) + (recipe.head.ensemble > 1)
    before, after = recipe.pretrain.optimiser, recipe.head.optimiser
    frames = before.steps * before.frames + recipe.head.ensemble * after.steps * after.frames
    return weights, techniques, frames, changes


def as_good(best: Sequence[float], other: Sequence[float]) -> bool:
    """Whether another recipe is as good as the best one: the mean difference of their AUROC over the same folds is at
    most the standard deviation of these differences."""
    differences = [one - two for one, two in zip(best, other, strict=True)]
    return statistics.mean(differences) <= statistics.stdev(differences)


def ranked(
    rows: Iterable[dict[str, Any]], complexities: dict[str, tuple[int, int, int, int]]
) -> list[dict[str, Any]]:
    """Results with `as_good` and `chosen`, the highest mean first; failed ones last.

    complexities: of each recipe, by name; rows come in the order of the file.
    """
    rows = list(rows)
    done = [row for row in rows if "failed" not in row]
    if done:
        best = max(done, key=lambda row: row["auroc"]["mean"])["auroc"]["folds"]
        for row in done:
            row["as_good"] = as_good(best, row["auroc"]["folds"])
        chosen = min((row for row in done if row["as_good"]), key=lambda row: complexities[row["name"]])
        for row in done:
            row["chosen"] = row is chosen
    return sorted(rows, key=lambda row: -(row["auroc"]["mean"] if "auroc" in row else 0.0))


def markdown(rows: Iterable[dict[str, Any]]) -> str:
    """The table of docs/nano.md: AUROC, mean and spread over the folds, and shares right at the default threshold."""
    shown = " | ".join(_SHOWN)
    lines = [
        f"| trial | changed settings | AUROC | unseen families | {shown} | head, s | why |",
        "| --- " * (6 + len(_SHOWN)) + "|",
    ]
    for row in rows:
        name = f"**{row['name']}**" if row.get("chosen") else row["name"]
        changed = " ".join(f"`{change}`" for change in row["set"]) or "none"
        measures = [row.get(measure) for measure in ("auroc", "unseen_families")]
        figures = ["-" if one is None else f"{one['mean']:.3f} ± {one['spread']:.3f}" for one in measures]
        shares = [row.get("right", {}).get(kind) for kind in _SHOWN]
        figures += ["-" if one is None else f"{one['share']:.2f}" for one in shares]
        seconds = row["failed"] if "failed" in row else f"{row['seconds']:.0f}"
        lines.append("| " + " | ".join([name, changed, *figures, seconds, row["why"]]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a trial failed or there was no time for it."""
    parser = parser_of(__doc__)
    parser.add_argument("--length", type=int, default=LENGTH, help="bases of a chunk")
    parser.add_argument("--sweep", type=Path, default=SWEEP, help="file of the trials")
    parser.add_argument("--only", nargs="+", help="names of trials, instead of all")
    given = parser.parse_args(arguments)
    runner = Runner(given.devices, given.minutes * 60)
    try:
        trials = read(given.sweep, given.recipe)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{given.sweep}: {error}") from error
    if unknown := set(given.only or ()) - {trial.name for trial in trials}:
        raise SystemExit(f"{given.sweep} has no trial {', '.join(sorted(unknown))}")
    chosen = [trial for trial in trials if not given.only or trial.name in given.only]
    sweep = CrossValidation(given, chosen, given.length)
    make_tables(sweep.trainings, given.length)
    failures = train(sweep.trainings, given.length, runner)
    works = {trial.name: (sweep.work(trial, 1), len(trial.changes)) for trial in chosen}
    complexities = {
        name: complexity(work.recipe, work.vocabulary, changes) for name, (work, changes) in works.items()
    }
    rows = ranked((sweep.result(trial, failures) for trial in chosen), complexities)
    (given.out / "sweep.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
    (given.out / "sweep.md").write_text(markdown(rows))
    for row in rows:
        log(**{key: value for key, value in row.items() if key != "why"})
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
