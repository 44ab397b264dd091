"""Real brokers for the tests of this folder, beside the one of tests/conftest.py; without one they are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kafka.broker import Broker, NoBroker
from tests.support.kafka.choice import do_without
from tests.support.kafka.job import Job
from tests.support.kafka.security import SecureBroker, start_secure_broker


@pytest.fixture
def job(broker: Broker) -> Job:
    """Topics and a group of one test's own, on the session's broker."""
    return Job.create(broker)


@pytest.fixture(scope="module")
def secure_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """A broker with encrypted and authenticated listeners, and users without any right."""
    try:
        running = start_secure_broker(tmp_path_factory.mktemp("secure-kafka"))
    except NoBroker as reason:
        do_without(reason)
    yield running
    running.stop()
