"""Runs of `predict` that go on after they were stopped: where the journal of scores lies, and which run it is of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from consumer.cli.error_messages import UserError, note
from consumer.cli.files.inputs import is_stream
from consumer.cli.files.outputs import Outputs
from consumer.cli.files.scoring import max_bases_of
from consumer.cli.files.targets import check_file, writing
from consumer.config.settings import ModelSettings
from consumer.errors import ExitCode
from virnucpro_core import __version__
from virnucpro_core.new_folder import new_folder
from virnucpro_core.scoring.model import EngineInfo
from virnucpro_core.scoring.row_journal import JournalError, RowJournal

ENDING = ".journal"


@contextmanager
def journal_beside(outputs: Outputs, fasta: str, resume: bool) -> Iterator[RowJournal | None]:
    """The journal beside the main output, to be begun; None where a run cannot be resumed.

    It is removed when the block ends well. If that raises, it stays if it holds rows, and a note says how to go on.

    Args:
        resume: an earlier run's journal is gone on with. Without it there may be none.

    Raises:
        UserError: there is one and `resume` is False, this run cannot be resumed and `resume` is True, or the journal
            cannot be written.
        JournalError: another process writes it, or the file is something else.
    """
    why_not = _why_not(outputs, fasta)
    if why_not is not None:
        if resume:
            raise UserError(f"--resume cannot be used: {why_not}", ExitCode.USAGE)
        yield None
        return
    assert isinstance(outputs.target, Path)
    path = _beside(outputs.target)
    with ExitStack() as stack:
        with writing(path):
            stack.enter_context(new_folder(path.parent))
            check_file(path, "--output", [fasta])
            if path.resolve() in [other.resolve() for other in outputs.paths]:
                raise UserError(
                    f"{path} is the name of this run's journal: name another file", ExitCode.USAGE
                )
            journal = RowJournal(path)
        stack.callback(journal.close)
        if journal.has_rows and not resume:
            raise UserError(
                f"{path} holds the scores of a run that was stopped: go on with it by --resume, or delete it to begin "
                "again",
                ExitCode.USAGE,
            )
        try:
            yield journal
        except BaseException:
            if journal.is_begun and journal.has_rows:
                note(f"the scores so far are in {path}: the same command with --resume goes on from there")
            raise
        journal.remove()


def begin(journal: RowJournal | None, fasta: str, settings: ModelSettings, info: EngineInfo) -> None:
    """Begin the run of this input, model and settings, or go on with it; does nothing without a journal.

    Raises:
        UserError: the journal is of another run, or cannot be written.
        OSError: the input cannot be read.
    """
    if journal is None:
        return
    identity = _identity(fasta, settings, info)
    with writing(journal.path):
        try:
            journal.begin(identity)
        except JournalError as error:
            raise UserError(str(error), ExitCode.USAGE) from error
    if journal.has_rows:
        note(f"going on with the run of {journal.path}")


def _identity(fasta: str, settings: ModelSettings, info: EngineInfo) -> dict[str, Any]:
    """What decides on the scores, but for the token budget: a run that ran out of memory goes on with a smaller one."""
    with Path(fasta).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "input": Path(fasta).name,
        "sha256_of_the_input": digest,
        **info.as_dict(),
        "device": info.kind_of_device,
        "kernels": info.kernels,
        "keep_u": settings.keep_u,
        "max_sequence_bases": max_bases_of(settings),
        "software_version": __version__,
    }


def _why_not(outputs: Outputs, fasta: str) -> str | None:
    """Why a run cannot be resumed, one line with the cure; None if it can."""
    if is_stream(fasta):
        return "a stream can be read once, so name the input file"
    if not isinstance(outputs.target, Path):
        return "what went to standard output cannot be taken back, so name a file with --output"
    if outputs.target.exists() and not (outputs.target.is_file() or outputs.target.is_dir()):
        return f"{outputs.target} is not a regular file, so name one with --output"
    return None


def _beside(target: Path) -> Path:
    """The journal's name: that of the file or folder, and an ending."""
    named = target if target.name not in ("", "..") else target.resolve()
    return named.parent / f"{named.name}{ENDING}"
