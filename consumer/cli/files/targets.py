"""Where commands write: what cannot be written is refused before any work, in the same words for all of them."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from consumer.cli.error_messages import UserError
from consumer.errors import ExitCode
from consumer.escaping import shown_on
from virnucpro_core.scoring.highest_scores import CHUNKS_FILE, FRAMES_FILE
from virnucpro_core.scoring.report import INTO_FOLDER, Format
from virnucpro_core.sequence.fasta import STDIN

STDOUT = "-"
_STDOUT_NAMES = (STDOUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
Source = str | Path
"""A file that the command reads; `-` is standard input."""


def is_stdout(output: Path) -> bool:
    """Whether this is `-` or one of the system's names for standard output.

    A file that this goes to may hold more than the command's output: it is written on, not replaced.
    """
    return str(output) in _STDOUT_NAMES


def check_file(output: Path, option: str, sources: Sequence[Source], seekable: bool = False) -> None:
    """Refuse an output file that cannot be written, or is one of the command's inputs or streams by any name.

    Args:
        output: as it was given with `option`.
        sources: what the command reads.
        seekable: only a regular file will do.

    Raises:
        UserError: with the cause and the cure.
    """
    if str(output) == STDOUT:
        raise UserError(f"{option} does not write to standard output: name a file", ExitCode.USAGE)
    if output.is_dir():
        raise UserError(f"{output} is a folder: name a file with {option}")
    if seekable and output.exists() and not output.is_file():
        raise UserError(
            f"{output} is not a regular file: name one with {option}, this output cannot be piped"
        )
    if not output.parent.is_dir():
        raise UserError(f"the folder {output.parent} does not exist: make it, or name another with {option}")
    _refuse_inputs(output, option, sources)
    _refuse_streams(output, option)


def check_folder(folder: Path, option: str, sources: Sequence[Source], names: Sequence[str]) -> None:
    """Refuse a folder, made if it is missing, in which the files `names` cannot be written or are inputs.

    Raises:
        UserError: with the cause and the cure.
    """
    if str(folder) == STDOUT:
        raise UserError(
            f"{option} writes {len(names)} files, not to standard output: name a folder", ExitCode.USAGE
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder with {option}")
    for name in names:
        _refuse_inputs(folder / name, option, sources)
        _refuse_streams(folder / name, option)


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that exists already, where a whole new one is to be made.

    Raises:
        UserError: with the cause and the cure.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: name a folder that does not", ExitCode.USAGE)


def check_named(name: str) -> None:
    """Refuse an empty `--id`; raises UserError."""
    if not name.strip():
        raise UserError("--id must not be empty", ExitCode.USAGE)


def check_stdout(sources: Sequence[Source]) -> None:
    """Refuse standard output that goes into one of the inputs, as in `predict a.fasta >> a.fasta`.

    Raises:
        UserError: with the cause and the cure.
    """
    try:
        written = os.fstat(1)
    except OSError:  # closed: writing to it says so
        return
    for source in sources:
        if _is_file(written, source):
            raise UserError(
                f"standard output goes to the input {source}: send it to another file", ExitCode.USAGE
            )


def answers_target(sources: Sequence[Source], form: Format, output: Path | None) -> Path | TextIO:
    """Where the answers to records go, in one of the formats of `predict`; refused as there.

    Args:
        sources: what the command reads.
        form: the format; for those of two files a folder must be named.
        output: None, `-` or another name of standard output is standard output.

    Raises:
        UserError: with the cause and the cure.
    """
    if form in INTO_FOLDER:
        if output is None:
            raise UserError(
                f"the {form} format writes two files: name a folder with --output", ExitCode.USAGE
            )
        check_folder(output, "--output", sources, [FRAMES_FILE, CHUNKS_FILE])
        return output
    if output is None or is_stdout(output):
        check_stdout(sources)
        return shown_on(sys.stdout)
    check_file(output, "--output", sources)
    return output


@contextmanager
def writing(target: Path | str) -> Iterator[None]:
    """Within this context an OSError is one of writing `target`; a closed pipe passes through.

    Raises:
        UserError: instead of the OSError.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        # The second name is where a finished file was to be moved to: it says which of several files it is.
        where = error.filename2 or target
        raise UserError(
            f"cannot write {where}: {error.strerror or error}; check the folder's rights and the disk"
        ) from error


def _refuse_inputs(output: Path, option: str, sources: Sequence[Source]) -> None:
    try:
        written = output.stat()
    except OSError:  # not there yet
        return
    for source in sources:
        if _is_file(written, source):
            what = "standard input" if str(source) == STDIN else source
            raise UserError(
                f"the output {output} is the input {what}: name another file with {option}", ExitCode.USAGE
            )


def _refuse_streams(output: Path, option: str) -> None:
    """Refuse the file that standard output or error goes to: what is written there would be lost with its name."""
    for number, name in ((1, "standard output"), (2, "standard error")):
        try:
            found = os.fstat(number)
        except OSError:  # closed
            continue
        if _is_file(found, output):
            raise UserError(
                f"{output} is the file that {name} goes to: name another file with {option}", ExitCode.USAGE
            )


def _is_file(found: os.stat_result, source: Source) -> bool:
    """Whether what was found is the regular file `source`, by whatever name; devices and pipes are not replaced."""
    if not stat.S_ISREG(found.st_mode):
        return False
    try:
        read = os.fstat(0) if str(source) == STDIN else Path(source).stat()
    except OSError:  # reading it gives the error
        return False
    return os.path.samestat(found, read)
