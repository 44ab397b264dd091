"""How much a command says on stderr: `--quiet` and `--verbose`, the same for all commands that have them."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import typer


class Verbosity(IntEnum):
    """What is said, each level with those before it."""

    QUIET = 0
    """Errors, warnings, and records that are left out."""
    NORMAL = 1
    """Also progress on a terminal, notes and the summary line."""
    VERBOSE = 2
    """Also what was chosen and why."""


_level = Verbosity.NORMAL


def verbosity() -> Verbosity:
    """The level of the command that runs."""
    return _level


def set_verbosity(level: Verbosity) -> None:
    """Set the level; every command line begins with `NORMAL`, and `consumer.cli.app.run` goes back to it."""
    global _level
    _level = level


def _choose(level: Verbosity, given: bool) -> None:
    if not given:
        return
    if _level not in (Verbosity.NORMAL, level):
        raise typer.BadParameter("--quiet and --verbose exclude each other: leave one of them out")
    set_verbosity(level)


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Say nothing on stderr but warnings and errors.",
        callback=lambda given: _choose(Verbosity.QUIET, given),
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Say what was chosen and why: model, device, attention, settings.",
        callback=lambda given: _choose(Verbosity.VERBOSE, given),
    ),
]
