"""A real broker for the tests of this folder; without one they are skipped, and in CI that is a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.kafka.kraft import KraftBroker, class_path, missing_tool


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KraftBroker]:
    """One broker for the session; each test makes topics of its own."""
    if (reason := missing_tool()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no real Kafka in CI: {reason}")
        pytest.skip(f"no real Kafka here: {reason}")
    folder = tmp_path_factory.mktemp("kafka")
    running = KraftBroker(folder, class_path(folder)).start()
    yield running
    running.stop()
