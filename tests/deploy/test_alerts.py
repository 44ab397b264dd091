"""A real Prometheus on the running service: a fault raises the alert that is meant for it, and no other."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.prometheus import Prometheus, faster
from tests.deploy.tools import ROOT, needed
from tests.support.harness import NoopServe, produce, serving, wait_until
from tests.support.kafka.broker import NoBroker
from tests.support.kafka.choice import do_without
from tests.support.kafka.job import Job, record
from tests.support.kafka.kraft import KraftBroker, class_path

RULES = (ROOT / "deploy/monitoring/rules.yaml").read_text()
WATCHED_S = 45.0
"""Longer than any rule takes to fire that does not look at half an hour or more, at the speed of `faster`."""
GOOD = record(0)
OF_NO_KNOWN_SCHEMA = b"\xc3\x01" + bytes(8) + GOOD[10:]


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[KraftBroker]:
    """A broker that a test may stop, and starts again."""
    needed("prometheus")
    folder = tmp_path_factory.mktemp("kafka")
    try:
        jars = class_path(folder)
    except NoBroker as reason:
        do_without(reason)
    running = KraftBroker(folder, jars)
    try:
        yield running.start()
    finally:
        running.stop()


@dataclass(frozen=True)
class Scene:
    """A service that has answered some records, a broker, and Prometheus."""

    broker: KraftBroker
    job: Job
    serve: NoopServe
    prometheus: Prometheus

    def publish(self, value: bytes, count: int) -> None:
        produce(self.job.bootstrap, ({"value": value} for _ in range(count)), f"{self.job.name}.in")

    def seen(self, promql: str) -> float:
        return self.prometheus.query(promql).get("worker-0", 0.0)


@contextmanager
def scene(broker: KraftBroker, folder: Path, rules: str, **variables: str) -> Iterator[Scene]:
    job = Job.create(broker)
    with serving(folder / "serve.log", kind=NoopServe, **job.worker(0), **variables) as serve:
        targets = {"worker-0": serve.http.removeprefix("http://")}
        with Prometheus(folder / "prometheus", targets, faster(rules)) as prometheus:
            found = Scene(broker, job, serve, prometheus)
            found.publish(GOOD, 100)
            predicted = 'vnp_records_total{outcome="predicted"}'
            wait_until(lambda: found.seen(predicted) == 100, "Prometheus sees its work")
            yield found


@dataclass(frozen=True)
class Fault:
    """What is done to the service, and the alerts that fire then.

    Attributes:
        strike: does it.
        mend: takes it back, so that the next test finds the broker.
        settings: of the service.
        rules: changes the rules, as the chart does.
        lasting: whether it strikes again and again.
    """

    alerts: frozenset[str]
    strike: Callable[[Scene], object]
    mend: Callable[[Scene], object]
    settings: Mapping[str, str]
    rules: Callable[[str], str]
    lasting: bool


def fault(
    alert: str | None,
    strike: Callable[[Scene], object],
    mend: Callable[[Scene], object] = lambda _: None,
    rules: Callable[[str], str] = str,
    lasting: bool = False,
    **settings: str,
) -> Fault:
    return Fault(frozenset([alert] if alert else []), strike, mend, settings, rules, lasting)


def expect_another_model(rules: str) -> str:
    return rules.replace('sha256!~".+"', f'sha256!="{"1" * 64}"')


FAULTS = {
    "none: it works, and is idle": fault(None, lambda scene: scene.publish(GOOD, 100)),
    "the broker is stopped": fault(
        "VirnucproBrokerUnreachable", lambda scene: scene.broker.stop(), lambda scene: scene.broker.start()
    ),
    "the process is killed": fault("VirnucproDown", lambda scene: scene.serve.process.kill()),
    "the process is frozen": fault(
        "VirnucproDown", lambda scene: scene.serve.process.send_signal(signal.SIGSTOP)
    ),
    "every record is junk": fault(
        "VirnucproDeadLetters", lambda scene: scene.publish(b"junk", 20), lasting=True
    ),
    "every record has an unknown schema": fault(
        "VirnucproBreakerOpen",
        lambda scene: scene.publish(OF_NO_KNOWN_SCHEMA, 20),
        VIRNUCPRO_BREAKER_RECORDS="10",
    ),
    "another model than the expected one is deployed": fault(
        "VirnucproModelUnexpected", lambda scene: scene.publish(GOOD, 10), rules=expect_another_model
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_raises_its_alert_and_no_other(name, broker, tmp_path):
    case = FAULTS[name]
    fired: set[str] = set()
    with scene(broker, tmp_path, case.rules(RULES), **case.settings) as watched:
        try:
            case.strike(watched)
            until = time.monotonic() + WATCHED_S
            while time.monotonic() < until:
                fired |= watched.prometheus.firing()
                time.sleep(0.25)
                if case.lasting:
                    case.strike(watched)
        finally:
            case.mend(watched)
    assert fired == case.alerts


def test_the_runbook_has_the_table():
    rows = [
        f"| {name} | " + (", ".join(f"[{alert}](#{alert.lower()})" for alert in case.alerts) or "none") + " |"
        for name, case in FAULTS.items()
    ]
    assert "\n".join(rows) in (ROOT / "docs/runbook.md").read_text()


def test_a_minute_of_the_rules_is_two_seconds_of_the_test():
    durations = re.findall(r"\[(\w+)\]|for: (\w+)$", faster(RULES), re.M)
    assert len(durations) == len(re.findall(r"\[\w+\]|for: ", RULES))
    assert {(first or second)[-1] for first, second in durations} == {"s"}
    assert faster("rate(a[1h])\nfor: 10m\n") == "rate(a[120s])\nfor: 20s\n"
