"""`virnucpro predict`: score a file on this machine, without any broker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from consumer.cli.files.scoring import Run
from consumer.cli.options import (
    AttentionBackend,
    Device,
    KeepU,
    Model,
    Precision,
    SequenceFile,
    V1Attention,
    model_settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virnucpro_core.scoring.results import RecordResult

ReportFormat = Literal["tsv", "jsonl", "virnucpro"]


def predict(
    fasta: SequenceFile,
    form: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="tsv: a row a record; jsonl: whole results as JSON lines; virnucpro: VirNucPro's two files. "
            "[default: tsv]",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write, - for stdout, or the folder for virnucpro. [default: stdout; for virnucpro a "
            "folder reads_merged beside reads.fasta]",
        ),
    ] = None,
    model: Model = None,
    device: Device = None,
    precision: Precision = None,
    attention_backend: AttentionBackend = None,
    v1_attention: V1Attention = False,
    keep_u: KeepU = False,
) -> None:
    """Score the sequences of a file as VirNucPro does, without a Kafka broker.

    A record that can't be scored is named on stderr, every other one is written, and the exit code is 1. If
    anything else fails, no output file is left behind.

    Example: `virnucpro predict reads.fasta.gz --format virnucpro --output results/`
    """
    from consumer.cli.error_messages import tell
    from consumer.cli.files.inputs import count_records
    from consumer.scoring.loading import load_engine
    from virnucpro_core.sequence.fasta import read_sequences

    form = _format(form, as_json)
    target = _target(fasta, form, output)
    settings = model_settings(model, device, precision, attention_backend, v1_attention, keep_u)
    size = count_records([fasta])
    engine = load_engine(settings)

    run = Run(engine, settings)
    _write(form, target, run.results(read_sequences(fasta), size))
    where = f", written to {target}" if isinstance(target, Path) else ""
    tell(
        f"scored {run.scored:,} records, {run.bases:,} bases, {run.viral:,} of them viral, {run.with_what()}{where}",
    )
    run.complain()


def _format(form: ReportFormat | None, as_json: bool) -> ReportFormat:
    """The one format that the two options ask for."""
    from consumer.cli.error_messages import UserError
    from consumer.errors import ExitCode

    if as_json and form not in (None, "jsonl"):
        raise UserError(f"--json asks for --format jsonl, not {form}: leave one of them out", ExitCode.USAGE)
    return form or ("jsonl" if as_json else "tsv")


def _target(fasta: str, form: ReportFormat, output: Path | None) -> Path | TextIO:
    """Where the report goes; what can't be written there is refused before the model is loaded.

    Without --output VirNucPro's own place for its two files: the input's name up to `.fa`, and `_merged`.
    """
    from consumer.cli.error_messages import UserError
    from consumer.cli.files.targets import STDOUT, check_file, check_folder, check_stdout
    from consumer.errors import ExitCode
    from consumer.escaping import shown_on
    from virnucpro_core.scoring.report import CHUNKS_FILE, FRAMES_FILE
    from virnucpro_core.sequence.fasta import STDIN

    if form == "virnucpro":
        if output is None and fasta == STDIN:
            raise UserError(
                "the virnucpro format writes two files: name a folder with --output", ExitCode.USAGE
            )
        beside = Path(fasta).with_name(Path(fasta).name.split(".fa")[0] + "_merged")
        folder = output or beside
        check_folder(folder, "--output", [fasta], [FRAMES_FILE, CHUNKS_FILE])
        return folder
    if output is None or str(output) == STDOUT:
        check_stdout([fasta])
        return shown_on(sys.stdout)
    check_file(output, "--output", [fasta])
    return output


def _write(form: ReportFormat, target: Path | TextIO, results: Iterator[RecordResult]) -> None:
    from consumer.cli.files.targets import writing
    from virnucpro_core.scoring.report import report

    write: Callable[[RecordResult], None]
    with (
        writing(str(target) if isinstance(target, Path) else "standard output"),
        report(form, target) as write,
    ):
        for result in results:
            write(result)
