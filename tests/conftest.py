"""What tests of several folders share."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Read by torch when it is imported, here and in every child: more threads wait for each other by spinning, which costs
# much where tests run side by side, and what the tests compute is too small to gain from them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

    from tests.support.checkpoints import Published
    from tests.support.kafka.broker import Broker
    from tests.support.kafka.kraft import KraftBroker
    from tests.support.registry import ApicurioRegistry


_WITH_BROKER = ("tests/kafka/", "tests/chaos/", "tests/simulation/test_conformance.py")
_OWN_BROKERS = (
    "tests/chaos/",
    "tests/kafka/test_make_kafka.py",
    "tests/kafka/test_outage.py",
    "tests/kafka/test_publish_wait.py",
    "tests/kafka/test_secrets.py",
    "tests/kafka/test_security.py",
    "tests/kafka/test_slow_broker.py",
)
"""Those of them that stop their broker, or need one that is set up differently."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a real broker begin, after the order was made random: they take longest, mostly waiting."""
    items.sort(key=lambda item: not item.nodeid.startswith(_WITH_BROKER))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker for each core, and one more when there are tests with a real broker, which mostly wait."""
    has_broker = any(folder.startswith(str(argument)) for folder in _WITH_BROKER for argument in config.args)
    return (os.cpu_count() or 1) + has_broker


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Side by side (`-n`): tests that share the real broker on one worker, those that do not on another, others by
    file."""
    from xdist.scheduler import LoadFileScheduling

    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = _scope  # marks (`--dist loadgroup`) are not seen by xdist 3.8 with pytest 9.2
    return scheduler


def _scope(nodeid: str) -> str:
    if nodeid.startswith(_OWN_BROKERS):
        return "own brokers"
    return "shared broker" if nodeid.startswith(_WITH_BROKER) else nodeid.partition("::")[0]


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """A shell that starts the tests in the background has SIGINT ignored, and their children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For a module whose models are so small that they are slower on several, above all on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in [name for name in os.environ if name.startswith(("VIRNUCPRO_", "OTEL_"))]:
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
    """One real broker for the session; each test makes new topics. Without one: skipped, and failed in CI."""
    from tests.support.kafka.broker import NoBroker
    from tests.support.kafka.choice import do_without, start_broker

    try:
        running = start_broker(tmp_path_factory.mktemp("kafka"))
    except NoBroker as reason:
        do_without(reason)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KraftBroker]:
    """A broker that the tests of a module may stop and kill."""
    from tests.support.kafka.broker import NoBroker
    from tests.support.kafka.choice import do_without
    from tests.support.kafka.kraft import KraftBroker, class_path

    folder = tmp_path_factory.mktemp("own-kafka")
    try:
        jars = class_path(folder)
    except NoBroker as reason:
        do_without(reason)
    running = KraftBroker(folder, jars)
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApicurioRegistry]:
    """One real schema registry for the session; each test takes topics of its own. Without one: skipped, and failed
    in CI."""
    from tests.support.kafka.choice import do_without
    from tests.support.registry import ApicurioRegistry, NoRegistry

    try:
        running = ApicurioRegistry(tmp_path_factory.mktemp("registry")).start()
    except NoRegistry as reason:
        do_without(reason, what="real schema registry")
    yield running
    running.stop()
