"""`virnucpro train-head`: train your own classifier on the features of labelled records; makes a new bundle."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.options import AsJson, LabelTable, NewBundle, NewId
from consumer.cli.verbosity import Quiet

_OF_TRAINING = ("hidden", "epochs", "learning_rate", "dropout", "validation_share")
"""Options that say how a head is trained."""


def train_head(
    context: typer.Context,
    features: Annotated[
        Path, typer.Argument(metavar="FEATURES", help="Feature file, made with `virnucpro embed`.")
    ],
    labels: LabelTable,
    output: NewBundle,
    name: NewId,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="The bundle that the features were made with. [default: what the file says]"
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            metavar="FEATURES2",
            help="The same frames by the other attention: train a head on these too, and compare.",
        ),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option("--head", metavar="FILE", help="Train nothing: take this head (.pth, .safetensors)."),
    ] = None,
    hidden: Annotated[
        int | None, typer.Option(min=1, help="Width of the hidden layer. [default: that of the model]")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="How often each frame is seen.")] = 10,
    learning_rate: Annotated[
        float, typer.Option(min=1e-6, max=1.0, help="At the start; it falls to 0.")
    ] = 1e-3,
    dropout: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of hidden values dropped.")] = 0.5,
    validation_share: Annotated[
        float, typer.Option(min=0.05, max=0.9, help="Of the records, or groups, that are held out.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and of the training.")] = 1,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write all results here, as JSON.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train your own classifier on labelled records, measure it on held-out records, and write a bundle.

    Whole records are held out, and whole groups where the table has a column group. Only the temperature is
    fitted on them. The encoders are those of the model that the features were made with.

    Example: `virnucpro train-head packed.safetensors --labels truth.tsv -o bundles/mine --id mine`
    """
    from consumer.cli.error_messages import tell, warn
    from consumer.cli.files.targets import check_file
    from consumer.cli.heads.head_inputs import HeadInputs
    from consumer.cli.heads.head_job import load, train, write
    from consumer.cli.heads.head_table import head_table
    from consumer.cli.heads.shortfall import shortfalls
    from consumer.cli.progress import epoch_bar
    from consumer.escaping import escaped
    from virnucpro_core.heads.training import HeadRecipe

    began_at = time.monotonic()
    _check(output, name, head, compare)
    if report is not None:
        inputs_given = [path for path in (features, labels, compare, head) if path is not None]
        check_file(report, "--report", inputs_given)
    if head is not None:
        _refuse_training_options(context)
    inputs = HeadInputs(features, labels, model, compare)
    if head is not None:
        made = load(inputs, head)
    else:
        width = hidden or inputs.base.manifest.head.hidden
        recipe = HeadRecipe(width, epochs, learning_rate=learning_rate, dropout=dropout, seed=seed)
        with epoch_bar(epochs * len(inputs.files)) as done:
            made = train(inputs, recipe, validation_share, done)
    bundle = write(inputs, made, output, name, report)
    if as_json:
        print(json.dumps(made.report, indent=2, allow_nan=False))
    else:
        print("\n".join(map(escaped, head_table(name, made.report))))
    where = f", its results are in {report}" if report else ""
    seconds = time.monotonic() - began_at
    if found := shortfalls(made.report):
        for line in found:
            warn(f"warning: the new head is far below its base, {line}")
        tell(
            f"{bundle.path} is written in {seconds:.1f} s{where}, but do not use it before you know why: label more "
            "records of that class, or check the labels"
        )
        return
    tell(f"{bundle.path} is complete in {seconds:.1f} s{where}; use it with --model {bundle.path}")


def _refuse_training_options(context: typer.Context) -> None:
    """A given head is not trained: an option that says how to train is refused, not ignored."""
    from consumer.cli.error_messages import UserError
    from consumer.errors import ExitCode

    for option in _OF_TRAINING:
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(
                f"--{option.replace('_', '-')} says how to train, --head trains nothing: leave one of them out",
                ExitCode.USAGE,
            )


def _check(output: Path, name: str, head: Path | None, compare: Path | None) -> None:
    """Refuse before any work what would fail after it."""
    from consumer.cli.error_messages import UserError
    from consumer.cli.files.targets import check_named, check_new_folder
    from consumer.errors import ExitCode

    check_new_folder(output)
    check_named(name)
    if head is not None and compare is not None:
        raise UserError(
            "--compare trains a head on each of the two files, --head trains none: leave one of them out",
            ExitCode.USAGE,
        )
