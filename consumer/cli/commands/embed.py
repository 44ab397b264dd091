"""`virnucpro embed`: what the models make of each frame of a file, to train a head on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.files.scoring import Run
from consumer.cli.options import (
    AttentionBackend,
    Device,
    Model,
    Precision,
    SequenceFile,
    V1Attention,
    model_settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from consumer.cli.files.inputs import Size
    from virnucpro_core.heads.feature_file import FeatureInfo
    from virnucpro_core.models.engine import Engine
    from virnucpro_core.sequence.prepare import PreparedRecord


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
) -> None:
    """Write the features of every open frame of a file: DNABERT-S's, then ESM-2's, as the classifier gets them.

    `virnucpro train-head` trains a classifier on them. A record that can't be scored is named on stderr, every
    other one is written, and the exit code is 1. If anything else fails, no output file is left behind.

    Example: `virnucpro embed reads.fasta -o packed.safetensors`
    """
    from consumer.cli.files.inputs import count_records
    from consumer.cli.files.targets import check_file, writing
    from consumer.scoring.loading import load_engine
    from virnucpro_core.heads.feature_writer import feature_writer

    check_file(output, "--output", [fasta], seekable=True)
    settings = model_settings(model, device, precision, attention_backend, v1_attention)
    size = count_records([fasta])
    engine = load_engine(settings)
    run = _Run(engine, settings)
    with writing(output), feature_writer(output, _info(engine, fasta)) as writer:
        for record, rows in run.features(fasta, size):
            writer.add(record, rows)
        writer.left_out = run.refused
    print(
        f"embedded {writer.frames:,} frames of {writer.records:,} records, {run.bases:,} bases, {run.with_what()}, "
        f"written to {output} ({output.stat().st_size / 1e6:,.1f} MB)",
        file=sys.stderr,
    )
    run.complain()


class _Run(Run):
    """Embeds one file and counts."""

    def features(
        self, fasta: str, size: Size | None
    ) -> Iterator[tuple[PreparedRecord, list[NDArray[np.float32]]]]:
        """The records in the order of the file, each with the features of its frames; with a progress bar."""
        from consumer.cli.progress import record_bar
        from virnucpro_core.scoring.stream import rows_of_records
        from virnucpro_core.sequence.fasta import read_sequences

        embedded = rows_of_records(
            read_sequences(fasta),
            self._engine,
            self._engine.features,
            self._token_budget,
            self._max_bases,
            self._refuse,
        )
        with record_bar("embedding", size) as done:
            for record, rows in embedded:
                self.bases += record.length
                done.add(record.length)
                yield record, rows


def _info(engine: Engine, fasta: str) -> FeatureInfo:
    """Where the features come from."""
    from virnucpro_core import __version__
    from virnucpro_core.heads.feature_file import FeatureInfo
    from virnucpro_core.sequence.fasta import STDIN

    info = engine.info
    return FeatureInfo(
        model_id=info.model_id,
        model_sha256=info.model_sha256,
        expected_length=info.expected_length,
        attention=info.attention,
        attention_backend=info.attention_backend,
        dna_attention_backend=info.dna_attention_backend,
        precision=info.precision,
        device=info.device,
        software_version=__version__,
        dnabert_s_dim=engine.dnabert_s.config.dim,
        esm2_dim=engine.esm2.dim,
        source="standard input" if fasta == STDIN else Path(fasta).name,
    )
