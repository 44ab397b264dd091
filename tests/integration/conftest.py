"""What several files of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.warm_commands import WarmCommands, warm_commands


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCommands]:
    """Runs commands that need no start of their own, in a tenth of the time."""
    with warm_commands(tmp_path_factory.mktemp("warm")) as commands:
        yield commands
