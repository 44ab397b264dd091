"""`virnucpro evaluate`: measures a model on sequences with known labels."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.cli.options import (
    AsJson,
    AttentionBackend,
    Device,
    KeepU,
    LabelTable,
    Model,
    NamedSequenceFile,
    Precision,
    SkipUnlabelled,
    V1Attention,
    model_settings,
)
from consumer.cli.verbosity import Quiet, Verbose

if TYPE_CHECKING:
    from consumer.cli.files.labelled import Labelled
    from consumer.cli.files.scoring import Run
    from virnucpro_core.scoring.model import EngineInfo


def evaluate(
    fasta: NamedSequenceFile,
    labels: LabelTable,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write all results here, as JSON.")
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option("--plots", metavar="DIR", help="Draw pictures (PNG) in this folder; needs matplotlib."),
    ] = None,
    skip_unlabelled: SkipUnlabelled = False,
    as_json: AsJson = False,
    model: Model = None,
    device: Device = None,
    precision: Precision = None,
    attention_backend: AttentionBackend = None,
    v1_attention: V1Attention = False,
    keep_u: KeepU = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure a model on sequences with known labels.

    Prints the AUROC with a 95% interval and the accuracy, for chunks and for
    whole records, by length and by group. A record that can't be scored is named on stderr and left out, and
    the exit code is 1.

    Example: `virnucpro evaluate reads.fasta --labels truth.tsv --report report.json --plots pictures/`
    """
    from consumer.cli.error_messages import tell, warn
    from consumer.cli.files.computing import OneDevice
    from consumer.cli.files.labelled import Labelled
    from consumer.cli.files.loaded_model import loaded_engine
    from consumer.cli.files.scoring import Run, max_bases_of
    from consumer.cli.output.evaluation_table import evaluation_table
    from consumer.escaping import escaped

    _check_targets(report, plots, [fasta, labels])
    settings = model_settings(model, device, precision, attention_backend, v1_attention, keep_u)
    records = Labelled(fasta, labels, skip_unlabelled, max_bases_of(settings))
    if records.warning:
        warn(records.warning)
    engine = loaded_engine(settings)
    run = Run(engine, settings, OneDevice(engine, settings.frame_cache))
    found = _about(engine.info, records) | _measure(run, records)
    for warning in found["warnings"]:
        warn(warning)

    text = json.dumps(found, indent=2, allow_nan=False)
    _write(found, text, report, plots)
    print(text if as_json else "\n".join(map(escaped, evaluation_table(found))))
    places = [str(path) for path in (report, plots) if path is not None]
    where = f", written to {' and '.join(places)}" if places else ""
    tell(f"evaluated {run.tally.scored:,} records, {run.tally.bases:,} bases, {run.with_what()}{where}")
    run.tally.complain()


def _check_targets(report: Path | None, plots: Path | None, sources: list[str | Path]) -> None:
    """Refuse before the model is loaded what could not be written after it has worked."""
    from consumer.cli.error_messages import UserError
    from consumer.cli.files.targets import check_file, check_folder
    from virnucpro_core.evaluation.plots import PLOT_FILES

    if report is not None:
        check_file(report, "--report", sources)
    if plots is None:
        return
    check_folder(plots, "--plots", sources, PLOT_FILES)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--plots draws with matplotlib, which is not installed: {shlex.quote(sys.executable)} -m pip install "
            "matplotlib, or leave --plots out"
        ) from error


def _about(info: EngineInfo, records: Labelled) -> dict[str, Any]:
    """Where the results come from."""
    from consumer.cli.files.inputs import named
    from virnucpro_core import __version__

    return {
        "model": {
            name.removeprefix("model_"): value
            for name, value in info.as_dict().items()
            if name != "dna_attention_backend"
        },
        "software_version": __version__,
        "inputs": {
            "sequences": named(Path(records.fasta)),
            "labels": named(records.table),
        },
    }


def _measure(run: Run, records: Labelled) -> dict[str, Any]:
    """Score the records; the report, with those counted that could not be."""
    from consumer.cli.error_messages import UserError
    from virnucpro_core.evaluation.evaluator import Evaluation

    evaluation = Evaluation()
    for result in run.results(records.records(), records.size):
        evaluation.add(result, records.labels[result.record_id])
    if not evaluation.frames:
        raise UserError(
            f"no record of {records.fasta} that could be scored has an open reading frame: there is nothing to "
            "evaluate; take other or longer sequences"
        )
    found = evaluation.report()
    found["counts"] |= {
        "records_refused": run.tally.refused,
        "records_unlabelled": records.unlabelled,
        "labels_without_record": records.without_record,
    }
    found["warnings"] = [line for line in (records.warning,) if line] + found["warnings"]
    return found


def _write(found: dict[str, Any], text: str, report: Path | None, plots: Path | None) -> None:
    from consumer.cli.files.targets import writing
    from virnucpro_core.atomic_files import atomic_write
    from virnucpro_core.evaluation.plots import write_plots

    if report is not None:
        with writing(report), atomic_write(report) as (draft,):
            draft.write_text(text + "\n", encoding="utf-8")
    if plots is not None:
        with writing(plots):
            write_plots(found, plots)
