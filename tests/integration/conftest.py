"""What several files of this folder share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.warm_commands import WarmCommands, warm_commands


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCommands]:
    """Runs commands that need no start of their own, in a tenth of the time."""
    with warm_commands(tmp_path_factory.mktemp("warm")) as commands:
        yield commands


@pytest.fixture
def by_a_pipe() -> Iterator[Callable[[Path], str]]:
    """Gives a name of a pipe that holds what a small file does, as a shell's `<(cat FILE)` does."""
    opened = []

    def piped(path: Path) -> str:
        reading, writing = os.pipe()
        opened.append(reading)
        with open(writing, "wb") as pipe:  # noqa: PTH123 - a descriptor
            pipe.write(path.read_bytes())
        return f"/dev/fd/{reading}"

    yield piped
    for descriptor in opened:
        os.close(descriptor)
