"""`virnucpro predict`: score a file on this machine, without any broker."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from consumer.cli.options import (
    MODEL_PANEL,
    AttentionBackend,
    Device,
    FrameCache,
    KeepU,
    Model,
    Precision,
    SequenceFile,
    V1Attention,
    model_settings,
)
from consumer.cli.rule_options import (
    DEFAULT_RULE,
    HighConfidenceDelta,
    MaxOpposingScore,
    MinAmbiguousScore,
    MinChunks,
    MinConfidentScore,
    MinNonviralProportion,
    MinViralProportion,
    MinWeightedDelta,
)
from consumer.cli.verbosity import Quiet, Verbose
from virnucpro_core.options import VirusBy

ReportFormat = Literal["tsv", "jsonl", "contigs", "virnucpro", "virnucpro-v1"]
TOLD_APART = ("contigs", "virnucpro")
"""The formats in which records of one id are told apart."""
MAX_GAP = 500
"""Bases: two viral chunks with one of 500 bases between them that has no open frame are one stretch."""
FILES_PANEL = "Further output files"
"""Heading of these options in the help. A name that ends in .gz, .bz2, .xz or .zst is compressed."""
PROBABILITY_PANEL = "Probability, for a model with a calibration"
"""Heading of these options in the help."""


def _file(option: str, text: str) -> Any:
    return typer.Option(option, metavar="FILE", help=text, rich_help_panel=FILES_PANEL)


def predict(
    fasta: SequenceFile,
    form: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="tsv: a row a record; jsonl: whole results as JSON lines; contigs: the calls of the contig rule; "
            "virnucpro: VirNucPro's two files, with the scores that other programs read; virnucpro-v1: its own two "
            "files. [default: tsv]",
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
    virus_fasta: Annotated[
        Path | None, _file("--virus-fasta", "The viral records, ids and letters as they are.")
    ] = None,
    virus_by: Annotated[
        VirusBy | None,
        typer.Option(
            help="Which records are viral there: by VirNucPro's verdict, by the call of the contig rule, or by "
            "--min-probability and --max-fdr. [default: probability where one of these is given, else verdict]",
            rich_help_panel=FILES_PANEL,
        ),
    ] = None,
    bed: Annotated[Path | None, _file("--bed", "Viral stretches and chunks, BED6.")] = None,
    gff3: Annotated[Path | None, _file("--gff3", "Viral stretches and chunks, GFF3.")] = None,
    max_gap: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="BASES",
            help="Most bases between two viral chunks of one stretch.",
            rich_help_panel=FILES_PANEL,
        ),
    ] = MAX_GAP,
    rejected: Annotated[
        Path | None, _file("--rejected", "Every record without a score, and why, as a table.")
    ] = None,
    summary: Annotated[
        Path | None, _file("--summary", "Counts, model, settings and seconds, as JSON.")
    ] = None,
    multiqc: Annotated[
        Path | None, _file("--multiqc", "Counts for MultiQC, as its custom content; name it *_mqc.json.")
    ] = None,
    prior: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Of the records that you expect to be viral; probabilities are moved to it. [default: 0.5]",
            rich_help_panel=PROBABILITY_PANEL,
        ),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="P",
            help="Write only records that are viral with at least this probability.",
            rich_help_panel=PROBABILITY_PANEL,
        ),
    ] = None,
    max_fdr: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Write the most probable records, as many as are expected to hold at most this share of others.",
            rich_help_panel=PROBABILITY_PANEL,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a run that was stopped, by the journal beside its --output; begin if there is none.",
        ),
    ] = False,
    min_weighted_delta: MinWeightedDelta = DEFAULT_RULE.min_weighted_delta,
    high_confidence_delta: HighConfidenceDelta = DEFAULT_RULE.high_confidence_delta,
    min_confident_score: MinConfidentScore = DEFAULT_RULE.min_confident_score,
    max_opposing_score: MaxOpposingScore = DEFAULT_RULE.max_opposing_score,
    min_ambiguous_score: MinAmbiguousScore = DEFAULT_RULE.min_ambiguous_score,
    min_viral_proportion: MinViralProportion = DEFAULT_RULE.min_viral_proportion,
    min_nonviral_proportion: MinNonviralProportion = DEFAULT_RULE.min_nonviral_proportion,
    min_chunks: MinChunks = DEFAULT_RULE.min_chunks,
    model: Model = None,
    device: Device = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            metavar="LIST",
            help="Several devices at once, a process each: cuda:0,cuda:1, or all (GPUs), or cpu,cpu.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None,
    precision: Precision = None,
    attention_backend: AttentionBackend = None,
    v1_attention: V1Attention = False,
    keep_u: KeepU = False,
    frame_cache: FrameCache = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            help="Threads that compute on the CPU, of each process. [default: one a core, or OMP_NUM_THREADS]",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score the sequences of a file as VirNucPro does, without a Kafka broker.

    A record that can't be scored is named on stderr, every other one is written, and the exit code is 1. If
    anything else fails, no output file is left behind. A run that was stopped goes on with --resume: the scores are
    kept in a journal beside the file --output until it is written.

    Example: `virnucpro predict reads.fasta.gz -o reads.tsv --virus-fasta viruses.fasta.gz --bed viruses.bed`
    """
    from consumer.cli.error_messages import tell
    from consumer.cli.files.computing import computing_on
    from consumer.cli.files.device_names import device_names
    from consumer.cli.files.inputs import count_records, read_any
    from consumer.cli.files.outputs import checked_outputs
    from consumer.cli.files.probabilities import Asked, Probabilities
    from consumer.cli.files.resuming import begin, journal_beside
    from consumer.cli.files.scoring import Run, max_bases_of
    from consumer.cli.files.summary import Summary
    from consumer.scoring.model import provenance
    from virnucpro_core.scoring.contig_rule import ContigRule
    from virnucpro_core.scoring.report import Details

    began_at = time.monotonic()
    others = {
        "--virus-fasta": virus_fasta,
        "--bed": bed,
        "--gff3": gff3,
        "--rejected": rejected,
        "--summary": summary,
        "--multiqc": multiqc,
    }
    asked = Asked(prior, min_probability, max_fdr)
    by = _virus_by(virus_by, asked.selects)
    outputs = checked_outputs(fasta, _format(form, as_json), output, others, by, max_gap)
    rule = ContigRule(
        min_weighted_delta,
        high_confidence_delta,
        min_confident_score,
        max_opposing_score,
        min_ambiguous_score,
        min_viral_proportion,
        min_nonviral_proportion,
        min_chunks,
    )
    names = device_names(device, devices)
    settings = model_settings(
        model, names[0], precision, attention_backend, v1_attention, keep_u, frame_cache
    )
    read = partial(read_any, max_bases=max_bases_of(settings))
    asked.check(settings.model)
    with journal_beside(outputs, fasta, resume) as journal:
        size = count_records([fasta], read)
        with computing_on(names, settings, threads) as (loaded, computing):
            begin(journal, fasta, settings, loaded.info)

            loading_s = time.monotonic() - began_at
            run = Run(loaded, settings, computing)
            probabilities = Probabilities(asked, loaded.info)
            details = Details(rule, asdict(provenance(loaded.info)), probabilities.of)
            summed_up = Summary(fasta, settings, rule, run, outputs, probabilities, loading_s)
            with outputs.open(details, summed_up, probabilities.selection) as write:
                for outcome in run.outcomes(read(fasta), size, journal):
                    write(outcome)
    tally = run.tally
    tally.say_repeated_ids(form in TOLD_APART)
    where = f", written to {', '.join(map(str, outputs.paths))}" if outputs.paths else ""
    tell(
        f"scored {tally.scored:,} records, {tally.bases:,} bases, {tally.verdicts['virus']:,} of them viral, "
        f"{run.with_what()}{where}"
    )
    if len(run.uses) > 1:
        for use in run.uses:
            tell(f"  {use}")
    if (selection := probabilities.selection) is not None:
        expected = selection.expected_fdr
        share = "" if expected is None else f"; {expected:.1%} of these are expected to be others"
        tell(f"{selection.count:,} of the {tally.scored:,} records are written{share}")
    tally.complain()


def _virus_by(given: VirusBy | None, selects: bool) -> VirusBy:
    """By which rule records go into --virus-fasta; selects: --min-probability or --max-fdr was given."""
    from consumer.cli.error_messages import UserError
    from consumer.errors import ExitCode

    if given == "probability" and not selects:
        raise UserError("--virus-by probability needs --min-probability or --max-fdr", ExitCode.USAGE)
    return given or ("probability" if selects else "verdict")


def _format(form: ReportFormat | None, as_json: bool) -> ReportFormat:
    """The one format that the two options ask for."""
    from consumer.cli.error_messages import UserError
    from consumer.errors import ExitCode

    if as_json and form not in (None, "jsonl"):
        raise UserError(f"--json asks for --format jsonl, not {form}: leave one of them out", ExitCode.USAGE)
    return form or ("jsonl" if as_json else "tsv")
