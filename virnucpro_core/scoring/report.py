"""Write what became of records: any number of reports in one run, each in its format, all of them complete or none.

A file appears under its name only when all files of the run are complete: each is written beside its name, and they are
renamed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, get_args

from virnucpro_core.new_folder import new_folder
from virnucpro_core.scoring.calibration import Probability
from virnucpro_core.scoring.contig_rule import ContigRule
from virnucpro_core.scoring.highest_scores import CHUNKS_FILE, FRAMES_FILE, OriginalFiles
from virnucpro_core.scoring.outcomes import Outcome
from virnucpro_core.scoring.output_files import complete_files
from virnucpro_core.scoring.selection import Selection
from virnucpro_core.scoring.tables import ContigTable, JsonLines, RecordTable

Format = Literal["tsv", "jsonl", "contigs", "virnucpro", "virnucpro-v1"]
FORMATS: tuple[Format, ...] = get_args(Format)
INTO_FOLDER: tuple[Format, ...] = ("virnucpro", "virnucpro-v1")
"""The formats that are two files in a folder."""

Write = Callable[[Outcome], None]
"""Adds what became of one record to every report."""


class Writer(Protocol):
    """One report that is being written."""

    def add(self, outcome: Outcome) -> None:
        """One more record, in the order of the input."""

    def finish(self) -> None:
        """All records were added: write what comes at the end. Called once, before any file takes its name."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report to be written.

    Attributes:
        target: a stream, or the files to be (re)written.
        writer: makes the writer of the stream, or of the open files.
        folder: made for the files if it is missing, and taken back with its parents if they do not come about.
        is_of_all: it is told of every record, also where others are told only of a selection.
    """

    target: TextIO | tuple[Path, ...]
    writer: Callable[..., Writer]
    folder: Path | None = None
    is_of_all: bool = False


@dataclass(frozen=True, slots=True)
class Details:
    """What reports say beside the results.

    Attributes:
        rule: the contig rule.
        provenance: what made the results, in each line of `jsonl`; left out if empty.
        probability: of a record, in `tsv` and `jsonl`; None for a model without a calibration.
    """

    rule: ContigRule = field(default_factory=ContigRule)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    probability: Probability | None = None


def report_of(form: Format, target: Path | TextIO, details: Details) -> Report:
    """The report of one format.

    Args:
        form: `tsv`: a header, then a row a record, ids as they are. `jsonl`: a JSON object a line, the whole result,
            with the field names of the service's predictions. `contigs`: a row for each record that has a score, with
            the call of the contig rule, sorted by id. `virnucpro`: two files, the original's of frames, and that of
            highest scores as other programs read it. `virnucpro-v1`: the original's own two files.
        target: a file or a stream; for the last two a folder.
        details: what it says beside the results.

    Raises:
        ValueError: one of the last two was asked for on a stream.
    """
    if form in INTO_FOLDER:
        if not isinstance(target, Path):
            raise ValueError(f"the format {form} is two files: give a folder to write them to")
        with_scores = form == "virnucpro"
        return Report(
            (target / FRAMES_FILE, target / CHUNKS_FILE),
            lambda frames, chunks: OriginalFiles(frames, chunks, with_scores),
            folder=target,
        )
    writers: dict[Format, Callable[[TextIO], Writer]] = {
        "tsv": lambda stream: RecordTable(stream, details.rule, details.probability),
        "jsonl": lambda stream: JsonLines(stream, details.rule, details.provenance, details.probability),
        "contigs": lambda stream: ContigTable(stream, details.rule),
    }
    return Report((target,) if isinstance(target, Path) else target, writers[form])


@contextmanager
def reports(wanted: Sequence[Report], selection: Selection | None = None) -> Iterator[Write]:
    """Open reports; gives the function that adds what became of a record to all of them.

    The files take their names when the block ends; if it raises, nothing is left behind, and what was there before
    stays.

    Args:
        selection: the records that reports are told of which are not of all.

    Raises:
        OSError: a target cannot be written.
    """
    with ExitStack() as stack:
        for report in wanted:
            if report.folder is not None:
                stack.enter_context(new_folder(report.folder))
        paths = [path for report in wanted if isinstance(report.target, tuple) for path in report.target]
        files = iter(stack.enter_context(complete_files(*paths)))
        writers = [
            report.writer(*(next(files) for _ in report.target))
            if isinstance(report.target, tuple)
            else report.writer(report.target)
            for report in wanted
        ]
        of_all = [
            writer
            for report, writer in zip(wanted, writers, strict=True)
            if selection is None or report.is_of_all
        ]
        of_some = [writer for writer in writers if writer not in of_all]

        def write(outcome: Outcome) -> None:
            for writer in of_all:
                writer.add(outcome)
            if selection is not None:
                tell_some(selection.add(outcome))

        def tell_some(outcomes: Iterable[Outcome]) -> None:
            for outcome in outcomes:
                for writer in of_some:
                    writer.add(outcome)

        yield write
        if selection is not None:
            tell_some(selection.rest())
        for writer in writers:
            writer.finish()
