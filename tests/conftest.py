"""What tests of several folders share."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.checkpoints import Published
    from tests.support.kafka.broker import Broker


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


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One real broker for the session; each test makes topics of its own. Without one: skipped, and failed in CI."""
    from tests.support.kafka.broker import NoBroker
    from tests.support.kafka.choice import do_without, start_broker

    try:
        running = start_broker(tmp_path_factory.mktemp("kafka"))
    except NoBroker as reason:
        do_without(reason)
    yield running
    running.stop()
