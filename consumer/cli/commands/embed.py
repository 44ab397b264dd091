"""`virnucpro embed`: what the models make of each frame of a file, to train a head on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from consumer.cli.verbosity import Quiet, Verbose

if TYPE_CHECKING:
    from virnucpro_core.heads.feature_file import FeatureInfo
    from virnucpro_core.models.engine import Engine


def embed(
    fasta: SequenceFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Feature file to write (safetensors).")
    ],
    model: Model = None,
    device: Device = None,
    precision: Precision = None,
    attention_backend: AttentionBackend = None,
    v1_attention: V1Attention = False,
    keep_u: KeepU = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write the features of every open frame of a file: DNABERT-S's, then ESM-2's, as the classifier gets them.

    `virnucpro train-head` trains a classifier on them. A record that can't be scored is named on stderr, every
    other one is written, and the exit code is 1. If anything else fails, no output file is left behind.

    Example: `virnucpro embed reads.fasta -o packed.safetensors`
    """
    from consumer.cli.error_messages import tell
    from consumer.cli.files.computing import OneDevice
    from consumer.cli.files.inputs import count_records
    from consumer.cli.files.loaded_model import loaded_engine
    from consumer.cli.files.scoring import Run, max_bases_of
    from consumer.cli.files.targets import check_file, writing
    from virnucpro_core.heads.feature_writer import feature_writer
    from virnucpro_core.sequence.fasta import read_sequences

    check_file(output, "--output", [fasta], seekable=True)
    settings = model_settings(model, device, precision, attention_backend, v1_attention, keep_u)
    read = partial(read_sequences, max_bases=max_bases_of(settings))
    size = count_records([fasta], read)
    engine = loaded_engine(settings)
    run = Run(engine, settings, OneDevice(engine, settings.frame_cache))
    with writing(output), feature_writer(output, _info(engine, fasta)) as writer:
        for computed in run.rows(read(fasta), size, engine.features, "embedding"):
            writer.add(computed.prepared, computed.rows)
        writer.left_out = run.tally.refused
    tell(
        f"embedded {writer.frames:,} frames of {writer.records:,} records, {run.tally.bases:,} bases, "
        f"{run.with_what()}, written to {output} ({output.stat().st_size / 1e6:,.1f} MB)",
    )
    run.tally.complain()


def _info(engine: Engine, fasta: str) -> FeatureInfo:
    """Where the features come from."""
    from virnucpro_core import __version__
    from virnucpro_core.heads.feature_file import FeatureInfo
    from virnucpro_core.sequence.fasta import STDIN

    return FeatureInfo(
        **engine.info.as_dict(),
        software_version=__version__,
        dnabert_s_dim=engine.dnabert_s.config.dim,
        esm2_dim=engine.esm2.dim,
        source="standard input" if fasta == STDIN else Path(fasta).name,
    )
