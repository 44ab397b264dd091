"""`virnucpro calibrate`: fits the probability of a record on labelled records; makes a new bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.options import (
    AsJson,
    AttentionBackend,
    Device,
    KeepU,
    LabelTable,
    Model,
    NamedSequenceFile,
    NewBundle,
    NewId,
    Precision,
    SkipUnlabelled,
    V1Attention,
    model_settings,
)
from consumer.cli.verbosity import Quiet, Verbose

if TYPE_CHECKING:
    from consumer.cli.files.labelled import Labelled
    from consumer.cli.files.scoring import Run
    from virnucpro_core.scoring.calibration import Calibration


def calibrate(
    fasta: NamedSequenceFile,
    labels: LabelTable,
    output: NewBundle,
    name: NewId,
    skip_unlabelled: SkipUnlabelled = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds of the cross-validation.")] = 1,
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
    """Fit the probability that a record is viral, for a model, on labelled records that it was not trained on.

    Writes a copy of the model's bundle with the calibration, with which `predict` gives probabilities. Prints the
    calibration error by length, of folds that had no part in the fit; whole groups are left out where the table has
    a column group. A record that can't be scored is named on stderr and left out, and the exit code is 1.

    Example: `virnucpro calibrate genomes.fasta --labels truth.tsv --model bundles/mine -o bundles/mine-p --id mine-p`
    """
    from consumer.cli.error_messages import tell, warn
    from consumer.cli.files.computing import OneDevice
    from consumer.cli.files.labelled import Labelled
    from consumer.cli.files.loaded_model import loaded_engine
    from consumer.cli.files.scoring import Run, max_bases_of
    from consumer.cli.files.targets import check_named, check_new_folder, writing
    from consumer.cli.output.calibration_table import calibration_table
    from consumer.escaping import escaped
    from virnucpro_core.bundle.bundle import Bundle, find_bundle, recalibrated_bundle

    check_new_folder(output)
    check_named(name)
    settings = model_settings(model, device, precision, attention_backend, v1_attention, keep_u)
    records = Labelled(fasta, labels, skip_unlabelled, max_bases_of(settings))
    if records.warning:
        warn(records.warning)
    base = Bundle.load(find_bundle(settings.model))
    engine = loaded_engine(settings)
    run = Run(engine, settings, OneDevice(engine, settings.frame_cache))
    calibration = _fit(run, records, engine.expected_length, seed)
    draft = replace(base.manifest, id=name, calibration=calibration)
    with writing(output):
        bundle = recalibrated_bundle(base, output, draft)
    if as_json:
        print(json.dumps(calibration.as_dict(), indent=2, allow_nan=False))
    else:
        print("\n".join(map(escaped, calibration_table(calibration.about))))
    tell(
        f"calibrated on {run.tally.scored:,} records, {run.with_what()}; {bundle.path} is complete, use it with "
        f"--model {bundle.path}"
    )
    run.tally.complain()


def _fit(run: Run, records: Labelled, expected_length: int, seed: int) -> Calibration:
    """Score the records and fit; the calibration says what made it."""
    from consumer.cli.error_messages import UserError
    from consumer.cli.files.inputs import named
    from virnucpro_core import __version__
    from virnucpro_core.evaluation.calibration_fit import CalibrationError, fit_calibration
    from virnucpro_core.evaluation.labelled_chunks import ChunkCollector

    collector = ChunkCollector()
    for result in run.results(records.records(), records.size):
        collector.add(result, records.labels[result.record_id])
    try:
        found = fit_calibration(collector.chunks(expected_length), seed)
    except CalibrationError as error:
        raise UserError(f"{records.fasta}: {error}") from error
    facts = {
        "software_version": __version__,
        "base": {"id": run.info.model_id, "sha256": run.info.model_sha256},
        "sequences": named(Path(records.fasta)),
        "labels": named(records.table),
        "precision": run.info.precision,
        "attention": run.info.attention,
    }
    return replace(found, about=facts | found.about)
