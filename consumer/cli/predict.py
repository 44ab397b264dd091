"""`virnucpro predict`: score a file on this machine, without any broker."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from consumer.cli.serve import V1_HELP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virnucpro_core.assemble import RecordResult
    from virnucpro_core.models.engine import Engine

ReportFormat = Literal["tsv", "jsonl", "virnucpro"]


def predict(
    fasta: Annotated[
        str, typer.Argument(metavar="FASTA", help="FASTA or FASTQ file, compressed or not; - is stdin.")
    ],
    form: Annotated[
        ReportFormat,
        typer.Option(
            "--format", help="A row a record, whole results as JSON lines, or VirNucPro's two files."
        ),
    ] = "tsv",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write, or the folder for virnucpro. [default: stdout; for virnucpro a folder "
            "reads_merged beside reads.fasta]",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name or folder of a model bundle. [default: VIRNUCPRO_MODEL, or nano]"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: VIRNUCPRO_DEVICE, or the first GPU]")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"] | None,
        typer.Option(help="Number format. [default: VIRNUCPRO_PRECISION, or fp16 on a GPU, fp32 on a CPU]"),
    ] = None,
    attention_backend: Annotated[
        Literal["auto", "flash_attn", "varlen", "sdpa"] | None,
        typer.Option(help="Attention kernels. [default: VIRNUCPRO_ATTENTION_BACKEND, or the fastest]"),
    ] = None,
    v1_attention: Annotated[bool, typer.Option("--v1-attention", help=V1_HELP)] = False,
) -> None:
    """Score the sequences of a file: VirNucPro's answers, without a Kafka broker.

    A record that can't be scored is named on stderr, every other one is written, and the exit code is 1. If
    anything else fails, no output file is left behind.

    Example: `virnucpro predict reads.fasta.gz --format virnucpro --output results/`
    """
    from consumer.cli.inputs import measure
    from consumer.model import load_engine
    from consumer.settings import load_settings

    if v1_attention:
        os.environ["VIRNUCPRO_V1_ATTENTION"] = "true"
    target = _target(fasta, form, output)
    chosen: dict[str, Any] = {
        "model": model,
        "device": device,
        "precision": precision,
        "attention_backend": attention_backend,
    }
    options = {name: value for name, value in chosen.items() if value is not None}
    settings = load_settings(os.environ, **options)
    size = measure([fasta])
    engine = load_engine(settings)
    budget = settings.token_budget or engine.default_token_budget

    began_at = time.monotonic()
    run = _Run(engine, budget, settings.max_sequence_bases)
    _write(form, target, run.results(fasta, size))
    seconds = time.monotonic() - began_at
    where = "" if target is sys.stdout else f", written to {target}"
    print(
        f"scored {run.scored:,} records, {run.bases:,} bases, {run.viral:,} of them viral, with the model "
        f"{engine.info.model_id} on {engine.info.device} ({engine.info.precision}) in {seconds:.1f} s{where}",
        file=sys.stderr,
    )
    if run.refused:
        from consumer.cli.errors import UserError

        raise UserError(f"{run.refused} records were left out (named above); correct or remove them")


class _Run:
    """Scores one file and counts."""

    def __init__(self, engine: Engine, token_budget: int, max_bases: int) -> None:
        self._engine, self._token_budget, self._max_bases = engine, token_budget, max_bases
        self.scored = self.viral = self.bases = self.refused = 0

    def results(self, path: str, size: Any) -> Iterator[RecordResult]:
        """The results in the order of the file, with a progress bar."""
        from consumer.cli.inputs import meter
        from virnucpro_core.fasta import read_sequences
        from virnucpro_core.predict import score_records

        with meter("scoring", size) as done:
            for result in score_records(
                read_sequences(path), self._engine, self._token_budget, self._max_bases, self._refuse
            ):
                self.scored += 1
                self.bases += result.length
                self.viral += result.verdict == "virus"
                done.add(result.length)
                yield result

    def _refuse(self, record_id: str, error: Any) -> None:
        from consumer.cli.errors import warn

        self.refused += 1
        cure = "; VIRNUCPRO_MAX_SEQUENCE_BASES raises it" if error.kind == "sequence_too_long" else ""
        warn(f"record {record_id!r} is left out: {error.detail}{cure}")


def _target(fasta: str, form: ReportFormat, output: Path | None) -> Path | TextIO:
    """Where the report goes; what can't be written there is refused before the model is loaded.

    Without --output VirNucPro's own place for its two files: the input's name up to `.fa`, and `_merged`.
    """
    from consumer.cli.errors import UserError
    from consumer.exit_codes import ExitCode
    from virnucpro_core.fasta import STDIN

    if output is None:
        if form != "virnucpro":
            return sys.stdout
        if fasta == STDIN:
            raise UserError(
                "the virnucpro format writes two files: name a folder with --output", ExitCode.USAGE
            )
        return Path(fasta).with_name(Path(fasta).name.split(".fa")[0] + "_merged")
    if form == "virnucpro" and output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: name a folder with --output for the virnucpro format")
    if form != "virnucpro" and output.is_dir():
        raise UserError(f"{output} is a folder: name a file with --output for the format {form}")
    if form != "virnucpro" and not output.parent.is_dir():
        raise UserError(f"the folder {output.parent} does not exist: make it, or name another with --output")
    return output


def _write(form: ReportFormat, target: Path | TextIO, results: Iterator[RecordResult]) -> None:
    from consumer.cli.errors import UserError
    from virnucpro_core.report import report

    write: Callable[[RecordResult], None]
    try:
        with report(form, target) as write:
            for result in results:
                write(result)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = "the output" if target is sys.stdout else str(target)
        raise UserError(
            f"cannot write {where}: {error.strerror}; check the folder's rights and the disk"
        ) from error
