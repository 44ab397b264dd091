"""What `predict` writes: its main output and those with a separate option, checked before the model is loaded."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from consumer.cli.error_messages import UserError
from consumer.cli.files.multiqc import multiqc
from consumer.cli.files.targets import check_file, check_folder, check_stdout, is_stdout, writing
from consumer.errors import ExitCode
from consumer.escaping import shown_on
from virnucpro_core.options import VirusBy
from virnucpro_core.scoring.contig_call import contig_call
from virnucpro_core.scoring.contig_rule import ContigRule
from virnucpro_core.scoring.highest_scores import CHUNKS_FILE, FRAMES_FILE
from virnucpro_core.scoring.outcomes import LeftOut, Outcome
from virnucpro_core.scoring.report import INTO_FOLDER, Details, Format, Report, Write, report_of, reports
from virnucpro_core.scoring.results import RecordResult
from virnucpro_core.scoring.selection import Selection
from virnucpro_core.scoring.sequence_files import Rejected, VirusFasta
from virnucpro_core.scoring.stretches import Bed, Gff3
from virnucpro_core.sequence.fasta import STDIN

OF_ALL = ("--rejected", "--summary", "--multiqc")
"""The files that are of every record, also where only some are written."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that were asked for.

    Attributes:
        form, target: the main output; a folder for the formats of two files.
        others: the other files, by the option that names each.
        virus_by: which records are in `--virus-fasta`.
        max_gap: bases between viral chunks of one stretch.
    """

    form: Format
    target: Path | TextIO
    others: Mapping[str, Path]
    virus_by: VirusBy
    max_gap: int

    @property
    def paths(self) -> list[Path]:
        """What is written, the main output first unless it is standard output."""
        main = [self.target] if isinstance(self.target, Path) else []
        return main + list(self.others.values())

    @contextmanager
    def open(
        self,
        details: Details,
        summary: Callable[[Calls], dict[str, Any]],
        selection: Selection | None = None,
    ) -> Iterator[Write]:
        """Open all of them; gives what adds the outcome of a record. They take their names when the block ends.

        Args:
            details: what the reports say beside the results.
            summary: what `--summary` holds, and `--multiqc` shows, asked for when all records were added.
            selection: the records that are written; None for all. `--rejected` and `--summary` are of all.

        Raises:
            UserError: one of them cannot be written.
        """
        rule = details.rule
        writers: dict[str, Callable[[TextIO], Any]] = {
            "--virus-fasta": lambda stream: VirusFasta(stream, self._is_viral(rule)),
            "--bed": lambda stream: Bed(stream, self.max_gap),
            "--gff3": lambda stream: Gff3(stream, self.max_gap),
            "--rejected": Rejected,
            "--summary": lambda stream: _Summary(stream, Calls(rule), summary),
            "--multiqc": lambda stream: _Summary(stream, Calls(rule), lambda calls: multiqc(summary(calls))),
        }
        wanted = [report_of(self.form, self.target, details)]
        wanted += [
            Report((path,), writers[option], is_of_all=option in OF_ALL)
            for option, path in self.others.items()
        ]
        where = [str(path) for path in self.paths]
        if not isinstance(self.target, Path):
            where.insert(0, "standard output")
        with writing(", ".join(where)), reports(wanted, selection) as write:
            yield write

    def _is_viral(self, rule: ContigRule) -> Callable[[RecordResult], bool]:
        if self.virus_by == "probability":
            return lambda result: True
        if self.virus_by == "verdict":
            return lambda result: result.verdict == "virus"

        def is_called_viral(result: RecordResult) -> bool:
            call = contig_call(result, rule)
            return call is not None and call.call == "Viral"

        return is_called_viral


class Calls:
    """Counts the calls of the contig rule and their tiers."""

    def __init__(self, rule: ContigRule) -> None:
        self._rule = rule
        self.calls: Counter[str] = Counter()
        self.tiers: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """The call on one more record, if it has a score."""
        if isinstance(outcome, LeftOut):
            return
        if (call := contig_call(outcome.result, self._rule)) is not None:
            self.calls[call.call] += 1
            self.tiers[call.tier] += 1


class _Summary:
    """One JSON object, written when all records were added."""

    def __init__(self, stream: TextIO, calls: Calls, compose: Callable[[Calls], dict[str, Any]]) -> None:
        self._stream, self._calls, self._compose = stream, calls, compose

    def add(self, outcome: Outcome) -> None:
        self._calls.add(outcome)

    def finish(self) -> None:
        self._stream.write(json.dumps(self._compose(self._calls), indent=2, allow_nan=False) + "\n")


def checked_outputs(
    fasta: str,
    form: Format,
    output: Path | None,
    others: Mapping[str, Path | None],
    virus_by: VirusBy,
    max_gap: int,
) -> Outputs:
    """The outputs of a run; what cannot be written is refused before the model is loaded.

    Args:
        fasta: the input.
        output: as given with `--output`.
        others: by option; None where it was not given.

    Raises:
        UserError: with the cause and the cure.
    """
    asked_for = {option: path for option, path in others.items() if path is not None}
    outputs = Outputs(form, _target(fasta, form, output), asked_for, virus_by, max_gap)
    for option, path in asked_for.items():
        check_file(path, option, [fasta])
    _refuse_one_name_twice(outputs)
    return outputs


def _target(fasta: str, form: Format, output: Path | None) -> Path | TextIO:
    """Where the main output goes.

    Without --output VirNucPro's own place for its two files: the input's name up to `.fa`, and `_merged`.
    """
    if form in INTO_FOLDER:
        if output is None and fasta == STDIN:
            raise UserError(
                f"the {form} format writes two files: name a folder with --output", ExitCode.USAGE
            )
        beside = Path(fasta).with_name(Path(fasta).name.split(".fa")[0] + "_merged")
        folder = output or beside
        check_folder(folder, "--output", [fasta], [FRAMES_FILE, CHUNKS_FILE])
        return folder
    if output is None or is_stdout(output):
        check_stdout([fasta])
        return shown_on(sys.stdout)
    check_file(output, "--output", [fasta])
    return output


def _refuse_one_name_twice(outputs: Outputs) -> None:
    options = dict(outputs.others)
    if isinstance(outputs.target, Path):
        names = (FRAMES_FILE, CHUNKS_FILE) if outputs.form in INTO_FOLDER else ("",)
        options = {f"--output{name and ' '}{name}": outputs.target / name for name in names} | options
    seen: dict[Path, str] = {}
    for option, path in options.items():
        real = path.resolve()
        if real in seen and (path.is_file() or not path.exists()):
            raise UserError(f"{seen[real]} and {option} both write {path}: name two files", ExitCode.USAGE)
        seen[real] = option
