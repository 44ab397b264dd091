"""How this command line is called on this machine, so that the commands that it prints can be typed as they are."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

NAME = "virnucpro"


def typed(*arguments: str) -> str:
    """A command line of ours as a person can type it in the current folder, for example after `make demo`.

    `virnucpro` where that is found on the PATH, else the path of the program, relative where it is below the folder.
    """
    return " ".join([_program(), *arguments])


def _program() -> str:
    called = Path(sys.argv[0])
    if called.name != NAME:  # as a module
        return shlex.join([_short(Path(sys.executable)), "-m", "consumer.cli.app"])
    program = Path(os.path.abspath(called))  # noqa: PTH100 - links stay: .venv/bin may be one
    on_path = shutil.which(NAME)
    return NAME if on_path is not None and Path(on_path) == program else shlex.quote(_short(program))


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
