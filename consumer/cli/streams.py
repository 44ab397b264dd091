"""Standard streams and signals as every command finds them, whatever the process was started with."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO, cast

from consumer.cli.error_messages import print_error
from consumer.errors import ExitCode

_WHY_NOT = {"stdin": os.O_WRONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPED = 128
"""Added to a signal's number it is the exit code of a command that the signal ended."""
_stopped_by: list[int] = []
"""The signal that told the command to stop."""


def prepare() -> None:
    """Make the streams UTF-8 and open, and end commands by signals in an orderly way; the first thing that runs."""
    _use_utf8()
    _open_closed_streams()
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        # File names keep their bytes on stdout, where programs read them.
        cast("io.TextIOWrapper", stream).reconfigure(encoding="utf-8", errors=errors)
    _handle_signals()


def finish(code: int) -> int:
    """Write out what stdout still holds; the exit code, which is not 0 when that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
        return code or ExitCode.RUNTIME
    except OSError as error:
        if code == ExitCode.OK:  # else the command has said what ended it
            report_os_error(error)
        discard_stdout()
        return code or ExitCode.RUNTIME
    return code


def report_os_error(error: OSError) -> None:
    """Say which file could not be read or written; an error without a name may be standard output's."""
    why = error.strerror or error
    if error.filename is not None:
        print_error(f"cannot read or write {error.filename} ({why}): check the path, its rights and the disk")
        return
    try:
        sys.stdout.flush()
    except OSError:
        print_error(f"cannot write standard output ({why}): check where it goes")
    else:
        print_error(f"cannot read or write ({why}): check the path, its rights and the disk")


def discard_stdout() -> None:
    """From now on what is written to stdout is dropped, with what it still holds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where arguments and file names are decoded by another encoding."""
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, sys.orig_argv)


def _open_closed_streams() -> None:
    """Give a stream that is closed (`>&-`) a place: else the next file that is opened takes its number.

    Reading from stdin and writing to stdout then fail as they do for other programs; stderr is dropped.
    """
    for number, (name, mode) in enumerate(_WHY_NOT.items()):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, mode)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        # Open as long as the process.
        stream: TextIO = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)


def _handle_signals() -> None:
    """The first signal unwinds the command, so that it takes back its unfinished files; a second ends it at once.

    `serve` puts its own handlers in the place of those of SIGTERM and SIGINT. What is ignored (nohup) stays so.
    """
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


@contextmanager
def signals_held() -> Iterator[None]:
    """Signals take effect when the block ends: one while a process is started would leave it orphaned, or half told.

    What is ignored (nohup) stays so, in a process that the block starts too.
    """
    held: list[int] = []
    heeded = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda which, _: held.append(which)) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for which in held:
            signal.raise_signal(which)


def code_after_signal() -> int | None:
    """The exit code of a command that a signal has told to stop; None if none has."""
    return _STOPPED + _stopped_by[0] if _stopped_by else None


def end_at_once() -> None:
    """From now on a signal ends the process at once, with its exit code."""
    for number in _STOPPING:
        if signal.getsignal(number) is _stop:
            signal.signal(number, _end)


def _stop(number: int, _frame: FrameType | None) -> None:
    _stopped_by.append(number)
    end_at_once()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(_STOPPED + number)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(_STOPPED + number)
