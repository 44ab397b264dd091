"""What a person at a terminal is told, on stderr: errors in one line with the cause and the cure, notes, a summary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from consumer.cli.verbosity import Verbosity, verbosity
from consumer.config.secrets import redacted
from consumer.errors import ExitCode
from consumer.escaping import escaped


class UserError(Exception):
    """A command cannot go on, and the user can fix the cause.

    Args:
        message: one line, the cause and then the cure.
        exit_code: what the process exits with.
    """

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.RUNTIME) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def tell(line: str) -> None:
    """Print the line that sums up what a command did; --quiet leaves it out."""
    if verbosity() >= Verbosity.NORMAL:
        _print_line(line)


def note(message: str) -> None:
    """Report something that a user may want to know and need not act on; --quiet leaves it out."""
    tell(f"virnucpro: {message}")


def detail(message: str) -> None:
    """Report what was chosen, and why; shown with --verbose."""
    if verbosity() >= Verbosity.VERBOSE:
        _print_line(f"virnucpro: {message}")


def warn(message: str) -> None:
    """Report something that does not stop the command and should be acted on; one line on stderr."""
    _print_line(f"virnucpro: {message}")


def _print_line(line: str) -> None:
    """A closed stderr does not stop the command."""
    with suppress(OSError):
        print(escaped(redacted(line)), file=sys.stderr, flush=True)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """For `warnings.showwarning`: one line on stderr, without the place in the source."""
    warn(f"warning: {' '.join(str(message).split())}")


def once(show: Callable[..., None]) -> Callable[..., None]:
    """For `warnings.showwarning`: shows each text the first time that it comes."""
    shown: set[str] = set()

    def show_new(message: Warning | str, *where: Any, **more: Any) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            show(message, *where, **more)

    return show_new


def print_error(message: str) -> None:
    """Show an error; a message of several lines (one for each bad setting) becomes as many error lines."""
    for line in message.split("\n") if message else ["unknown error"]:
        warn(f"error: {line}")


@contextmanager
def failure_in_the_log() -> Iterator[None]:
    """For a process whose log is for programs: the error that ends it is a line of the log, nothing else is printed.

    A message of several lines becomes as many lines of the log.
    """
    import structlog  # a fifth of the time that `virnucpro --help` takes

    log = structlog.get_logger(__name__)
    try:
        yield
    except known_errors() as error:
        code = exit_code_of(error)
        for line in str(error).split("\n"):
            log.critical("service_failed", error=line, exit_code=code)
        sys.exit(code)
    except Exception:
        log.critical("service_failed", exc_info=True, exit_code=int(ExitCode.RUNTIME))
        sys.exit(ExitCode.RUNTIME)


def known_errors() -> tuple[type[BaseException], ...]:
    """The errors whose message is written for people.

    Called when something was raised, not before, so that a command imports only what it uses itself.
    """
    from consumer.config.environment import SettingsError
    from consumer.errors import ServiceError
    from virnucpro_core.bundle.manifest import BundleError
    from virnucpro_core.errors import CoreError
    from virnucpro_core.evaluation.labels import LabelFileError
    from virnucpro_core.heads.feature_file import FeatureFileError
    from virnucpro_core.sequence.fasta import SequenceFileError

    errors = (
        *(UserError, ServiceError, SettingsError, CoreError),
        *(BundleError, SequenceFileError, LabelFileError, FeatureFileError),
    )
    if "torch" not in sys.modules:
        return errors
    from virnucpro_core.models.attention import BackendUnavailable

    return (*errors, BackendUnavailable)


def exit_code_of(error: BaseException) -> int:
    """The exit code that goes with one of the `known_errors`."""
    from consumer.config.environment import SettingsError
    from virnucpro_core.errors import DeviceLost

    if isinstance(error, SettingsError):
        return ExitCode.USAGE
    if isinstance(error, DeviceLost):
        return ExitCode.DEVICE_LOST
    return int(getattr(error, "exit_code", ExitCode.RUNTIME))
