"""A sequence file and the table of its labels, checked against each other before the work begins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from consumer.cli.error_messages import UserError
from consumer.cli.files.inputs import Record, Size, is_stream
from consumer.errors import ExitCode
from virnucpro_core.evaluation.labels import read_labels
from virnucpro_core.sequence.fasta import read_sequences
from virnucpro_core.wording import some_of

_SHOWN = 3


class Labelled:
    """The records of a file that have a label.

    Args:
        fasta: a sequence file; it is read through at once, and again by `records`.
        table: as `virnucpro_core.evaluation.labels.read_labels` takes it.
        skip_unlabelled: leave out records without a label; else they are an error.
        max_bases: a sequence with more is cut while it is read, see `read_sequences`.

    Attributes:
        fasta, table: as given.
        labels: by record id.
        size: the records that have a label, and their bases.
        unlabelled: records that have none.
        without_record: labels whose record is not there.
        warning: the warning about those, "" if there are none.

    Raises:
        UserError: the file is a stream, an id comes twice, a record has no label, or no record has one.
        SequenceFileError, LabelFileError: one of the files can't be used.
    """

    def __init__(self, fasta: str, table: Path, skip_unlabelled: bool, max_bases: int = sys.maxsize) -> None:
        if is_stream(fasta):
            raise UserError(
                "the sequences are read twice, first to compare them with the labels, and a stream can be read "
                "once: name a file",
                ExitCode.USAGE,
            )
        self.fasta, self.table, self._max_bases = fasta, table, max_bases
        self.labels = read_labels(table)
        seen: set[str] = set()
        bases = self.unlabelled = 0
        shown: list[str] = []
        for record_id, _, sequence in read_sequences(fasta, max_bases):
            if record_id in seen:
                raise UserError(
                    f"{fasta} has more than one record {record_id!r}: give each a unique id, since a "
                    "label could belong to either"
                )
            seen.add(record_id)
            if record_id in self.labels:
                bases += len(sequence)
            else:
                self.unlabelled += 1
                shown = shown if len(shown) == _SHOWN else [*shown, record_id]
        self.size = Size(len(seen) - self.unlabelled, bases)
        if self.size.records == 0:
            raise UserError(
                f"no record of {fasta} has a label in {table} (the first is {shown[0]!r}): its ids must be the "
                "first words of the headers"
            )
        if self.unlabelled and not skip_unlabelled:
            raise UserError(
                f"{self.unlabelled:,} of {len(seen):,} records of {fasta} have no label in {table} "
                f"({some_of(shown, self.unlabelled)}): add their labels, or leave them out with --skip-unlabelled"
            )
        absent = [record_id for record_id in self.labels if record_id not in seen]
        self.without_record = len(absent)
        self.warning = (
            f"{len(absent):,} of {len(self.labels):,} labels in {table} have no record in {fasta} "
            f"({some_of(absent)})"
            if absent
            else ""
        )

    def records(self) -> Iterator[Record]:
        """Those that have a label, in the order of the file."""
        for record in read_sequences(self.fasta, self._max_bases):
            if record[0] in self.labels:
                yield record
