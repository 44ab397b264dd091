"""`virnucpro frames`: what VirNucPro would score, one JSON object for each open frame, without any model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from consumer.cli.options import ChunkSize, SequenceFile


def frames(
    fasta: SequenceFile,
    expected_length: Annotated[
        ChunkSize, typer.Option(help="Bases in a chunk: the expected length of the model.")
    ] = ChunkSize.LONG,
    as_json: Annotated[
        bool, typer.Option("--json", show_default=False, help="JSON lines: what this command always prints.")
    ] = True,
) -> None:
    """Show what is scored: the open reading frames of every chunk, as JSON lines, in VirNucPro's order.

    Each line has the keys record, chunk, frame, nucleotides (what DNABERT-S reads) and protein (what ESM-2
    reads). A chunk without an open frame has one line with `"frame": null`.

    A record that can't be scored (empty, or with letters that are not nucleotide codes) is named on stderr,
    the others go on, and the exit code is 1.

    Example: `virnucpro frames reads.fasta --expected-length 300 | jq .protein`
    """
    from consumer.cli.error_messages import warn
    from consumer.escaping import json_line
    from virnucpro_core.sequence.fasta import read_sequences
    from virnucpro_core.sequence.validation import InvalidSequence, validate

    refused = 0
    for record_id, _, sequence in read_sequences(fasta):
        try:
            validate(record_id, sequence, sys.maxsize)
        except InvalidSequence as error:
            refused += 1
            warn(f"record {record_id!r} is left out: {error.detail}")
            continue
        for line in frame_lines(record_id, sequence, int(expected_length)):
            print(json_line(line))
    if refused:
        raise typer.Exit(1)


def frame_lines(record_id: str, sequence: str, chunk_size: int) -> Iterator[dict[str, str | None]]:
    """The lines of one valid record: keys record, chunk, frame, nucleotides, protein; the last three are None
    together where a chunk has no open frame."""
    from virnucpro_core.sequence.chunks import chunk_name, chunk_spans
    from virnucpro_core.sequence.frames import open_frames_by_span

    spans = chunk_spans(len(sequence), chunk_size)
    for index, found in enumerate(open_frames_by_span(sequence, spans)):
        chunk = chunk_name(record_id, index)
        for frame in found:
            yield {
                "record": record_id,
                "chunk": chunk,
                "frame": chunk + frame.label,
                "nucleotides": frame.nucleotides,
                "protein": frame.protein,
            }
        if not found:
            yield {"record": record_id, "chunk": chunk, "frame": None, "nucleotides": None, "protein": None}
