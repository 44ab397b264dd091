"""The work of `virnucpro train-head`: trains a head or loads one, measures it, and writes its bundle."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consumer.cli.error_messages import UserError
from consumer.cli.files.targets import writing
from consumer.cli.heads.head_inputs import HeadInputs
from virnucpro_core import __version__
from virnucpro_core.atomic_files import atomic_write
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.bundle.manifest import HeadConfig
from virnucpro_core.hashing import sha256_of
from virnucpro_core.heads.splits import Part
from virnucpro_core.scoring.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

    from virnucpro_core.heads.comparison import Candidate
    from virnucpro_core.heads.training import EpochDone, HeadRecipe
    from virnucpro_core.models.classifier import Head

_MAY_HAVE_SEEN = "may have been trained on these records; then its figures flatter it"


@dataclass(frozen=True, slots=True, eq=False)
class MadeHead:
    """A head that has been measured.

    Attributes:
        tensors: its weights by name.
        hidden: width of its hidden layer.
        how: its origin in a few words, for the bundle's description.
        report: the comparison as JSON; its `temperature` is what the logits are divided by.
        calibration: of the probability of records; None if none could be fitted, `report` says why.
    """

    tensors: Mapping[str, Tensor]
    hidden: int
    how: str
    report: dict[str, Any]
    calibration: Calibration | None


def train(inputs: HeadInputs, recipe: HeadRecipe, share: float, epoch_done: EpochDone) -> MadeHead:
    """Train a head on each feature file, and measure all on the `share` of the records, or groups, held out.

    Raises:
        LabelFileError: there are too few records or groups of a label.
    """
    import torch

    from virnucpro_core.bundle.weights import weights_of
    from virnucpro_core.heads.comparison import Candidate
    from virnucpro_core.heads.training import train_head

    training, held_out = inputs.records.split(share, recipe.seed)
    candidates = [
        Candidate(
            title=f"trained on {name}" if len(inputs.files) > 1 else "new",
            head=train_head(file.features, training.rows, training.frame_is_virus, recipe, epoch_done),
            trained_on=name,
        )
        for name, file in inputs.files.items()
    ]
    counts = training.counts()
    report = _report(
        inputs,
        candidates,
        held_out,
        split={
            "what": f"{share:.0%} of the {inputs.records.by}s of each label, held out",
            "share": share,
            "seed": recipe.seed,
            "training": counts,
        },
        settings=asdict(recipe),
        options={
            "hidden": recipe.hidden,
            "epochs": recipe.epochs,
            "learning-rate": recipe.learning_rate,
            "dropout": recipe.dropout,
            "validation-share": share,
            "seed": recipe.seed,
        },
        notes=[
            "no weight, epoch or setting was chosen by looking at the records held out; only the temperature was "
            "fitted on their chunks, so their ECE flatters a little"
        ],
    )
    calibration = _calibrate(inputs, candidates[0].head, held_out, report, recipe.seed)
    how = f"trained on {counts['frames']:,} frames of {counts['records']:,} records"
    return MadeHead(weights_of(candidates[0].head, torch.float32), recipe.hidden, how, report, calibration)


def load(inputs: HeadInputs, path: Path) -> MadeHead:
    """Load the head of a file, and measure it on all labelled records; nothing in the file is executed.

    Raises:
        BundleError: it is not a head.
        UserError: it cannot be read, or is not one for these features.
    """
    from virnucpro_core.heads.comparison import Candidate, head_of
    from virnucpro_core.importing.head_checkpoint import features_of, read_head

    try:
        part = read_head(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the path") from error
    taken, dim = features_of(part), inputs.base.manifest.feature_dim
    if taken != dim:
        raise UserError(
            f"{path} takes {taken} features, but the model {inputs.base.manifest.id} gives {dim}: name a head for "
            "this model, or make the features with the other one"
        )
    head, records = head_of(part.tensors, dim, part.config.hidden), inputs.records.whole()
    report = _report(
        inputs,
        [Candidate("given", head, inputs.first)],
        records,
        split={"what": "all labelled records, since the head was trained elsewhere"},
        settings={"head": {"name": path.name, "sha256": sha256_of(path), "layout": part.layout}},
        options={"head": path.name},
        notes=[
            f"the given head {_MAY_HAVE_SEEN}",
            "its temperature was fitted on the chunks that it is measured on, so their ECE flatters a little",
        ],
    )
    calibration = _calibrate(inputs, head, records, report, seed=1)
    return MadeHead(part.tensors, part.config.hidden, f"from {path.name}", report, calibration)


def write(inputs: HeadInputs, made: MadeHead, output: Path, name: str, report: Path | None) -> Bundle:
    """Write the bundle, and the report.

    Raises:
        BundleError: `output` exists.
        UserError: something cannot be written.
    """
    from virnucpro_core.heads.comparison import bundle_with_head

    found = made.report
    base = inputs.base.manifest
    manifest = replace(
        base,
        id=name,
        description=f"{base.id} with another head, {made.how}",
        head=HeadConfig(made.hidden),
        temperature=found["temperature"],
        calibration=made.calibration,
        training={
            **{fact: found[fact] for fact in ("command", "software_version", "data", "split", "settings")},
            "base": found["base"] | {"training": base.training},
        },
        validation=_summary(found) | {part: found[part] for part in ("measured", "compared", "notes")},
    )
    with ExitStack() as stack:
        if report is not None:  # before the bundle, which is not there if it fails
            stack.enter_context(writing(report))
            (draft,) = stack.enter_context(atomic_write(report))
            text = json.dumps({"id": name, **found}, indent=2, allow_nan=False)
            draft.write_text(text + "\n", encoding="utf-8")
        with writing(output):
            return bundle_with_head(inputs.base, output, manifest, made.tensors)


def _calibrate(
    inputs: HeadInputs, head: Head, part: Part, report: dict[str, Any], seed: int
) -> Calibration | None:
    """Fit the probability of records on the scores of `part`; `report` gets what was found, or why nothing was."""
    from virnucpro_core.evaluation.calibration_fit import CalibrationError
    from virnucpro_core.heads.head_calibration import head_calibration

    file = inputs.files[inputs.first]
    try:
        found = head_calibration(head, report["temperature"], file, part, seed)
    except CalibrationError as error:
        report["calibration"] = {"none": str(error)}
        return None
    report["calibration"] = found.about
    return found


def _report(
    inputs: HeadInputs,
    candidates: list[Candidate],
    part: Part,
    split: dict[str, Any],
    settings: dict[str, Any],
    options: dict[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    """Measure the candidates, and the base's head beside them, on `part`."""
    from virnucpro_core.heads.comparison import base_candidate, compare_heads

    temperatures, found = compare_heads(inputs.files, [*candidates, base_candidate(inputs.base)], part)
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    return {
        "base": {"id": inputs.base.manifest.id, "sha256": inputs.base.sha256},
        "command": shlex.join(["virnucpro", "train-head", *inputs.arguments, *words]),
        "software_version": __version__,
        "data": inputs.data(),
        "split": split | {"held_out": part.counts(), **inputs.records.summary()},
        "settings": settings,
        "temperature": temperatures[candidates[0].title],
        **found,
        "notes": [*notes, f"the head of {inputs.base.manifest.id} {_MAY_HAVE_SEEN}"],
    }


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    """The metrics of the bundle's own head that `virnucpro models show` prints."""
    own = report["measured"][0]
    short = {"split": report["split"]["what"], **report["split"]["held_out"]}
    for level, name in (("chunks", "chunk"), ("records_by_verdict", "record")):
        for metric in ("auroc", "accuracy", "sensitivity", "specificity", "ece"):
            short[f"{name}_{metric}"] = own[level][metric]
    return short
