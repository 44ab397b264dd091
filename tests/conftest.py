"""What several unit tests share."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.checkpoints import Published


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """A shell that starts the tests in the background has SIGINT ignored, and their children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in [name for name in os.environ if name.startswith("VIRNUCPRO_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def on_the_cpu(no_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of the commands run on the CPU, also where there is a GPU."""
    monkeypatch.setenv("VIRNUCPRO_DEVICE", "cpu")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Tiny checkpoints in the layouts of the published ones."""
    from tests.support.checkpoints import Published

    return Published(tmp_path_factory.mktemp("published"))
