"""A real Prometheus on running services, each with a fault: it raises the alert that is meant for it, and no other."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.deploy.faults import (
    BEGIN,
    FAULTS,
    GOOD,
    GUIDE,
    Scene,
    query_of,
    table,
    with_expected_model,
    written,
)
from tests.deploy.prometheus import FASTER, Prometheus, faster
from tests.deploy.tools import ROOT, found, run
from tests.support.harness import NoopServe, serving, wait_until
from tests.support.kafka.ending import logged_error
from tests.support.kafka.job import Job

RULES = (ROOT / "deploy/monitoring/rules.yaml").read_text()
WATCHED_S = 50.0
"""Longer than any rule takes to fire that does not look at half an hour or more, at the speed of `faster`."""
ANSWERING = [name for name, fault in FAULTS.items() if fault.panel != "Processes down"]
_RATE = f"{5 * 60 // FASTER}s"


@dataclass
class Seen:
    """What was seen of each fault while it was watched; all by its job."""

    alerts: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    panels: set[str] = field(default_factory=set)
    pages: dict[str, tuple[int, str]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)


def job_of(name: str) -> str:
    """Prometheus' name for the job of a fault."""
    return "virnucpro-" + re.sub(r"\W+", "-", name)


@pytest.fixture(scope="module")
def seen(broker, own_broker, tmp_path_factory) -> Seen:
    """All faults at once, each with a service of its own."""
    if found("prometheus") is None:
        pytest.skip("prometheus not found: `make check-deploy` gets it")
    folder = tmp_path_factory.mktemp("faults")
    result = Seen()
    with ExitStack() as stack:
        scenes = {}
        for number, (name, fault) in enumerate(FAULTS.items()):
            at = own_broker if fault.own_broker else broker
            job = Job.create(at)
            (folder / str(number)).mkdir()
            log = folder / str(number) / "serve.log"
            serve = serving(log, kind=NoopServe, **job.worker(0), **fault.settings)
            scenes[name] = Scene(at, job, stack.enter_context(serve))
            scenes[name].publish(GOOD, 100)
        targets = {
            job_of(name): {"worker-0": each.serve.http.removeprefix("http://")}
            for name, each in scenes.items()
        }
        rules = faster(with_expected_model(RULES))
        prometheus = stack.enter_context(Prometheus(folder / "prometheus", targets, rules))
        predicted = 'sum by (job) (vnp_records_total{outcome="predicted"})'
        wait_until(
            lambda: prometheus.query(predicted) == dict.fromkeys(targets, 100.0), "Prometheus sees their work"
        )
        for name, fault in FAULTS.items():
            fault.strike(scenes[name])
        until = time.monotonic() + WATCHED_S
        while time.monotonic() < until:
            for job, alert in prometheus.firing():
                result.alerts[job].add(alert)
            for name, fault in FAULTS.items():
                if fault.lasting:
                    fault.strike(scenes[name])
            time.sleep(0.25)
        for name, fault in FAULTS.items():
            if fault.panel:
                values = prometheus.values(query_of(fault.panel, job_of(name), _RATE))
                result.panels |= {name} if max(values, default=0) > 0 else set()
            if fault.last_words:
                result.errors[name] = logged_error(scenes[name].serve.log.read_text())
            if fault.panel != "Processes down":
                result.pages[name] = scenes[name].serve.get("/readyz")
                result.metrics[name] = scenes[name].serve.get("/metrics")[1]
    return result


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_raises_its_alert_and_no_other(name, seen):
    assert seen.alerts[job_of(name)] == {FAULTS[name].alert} - {""}
    assert seen.alerts[""] == set(), "of no job"


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.panel])
def test_the_dashboard_shows_it(name, seen):
    assert name in seen.panels


@pytest.mark.parametrize("name", ANSWERING)
def test_the_probe_says_so(name, seen):
    code, text = seen.pages[name]
    reason = FAULTS[name].not_ready
    assert (code, reason in text) == (503 if reason else 200, True)


@pytest.mark.parametrize("name", ANSWERING)
def test_promtool_has_nothing_to_say_about_its_metrics(name, seen):
    assert "vnp_records_total" in seen.metrics[name]
    done = run("promtool", "check", "metrics", stdin=seen.metrics[name])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.last_words])
def test_a_service_that_ends_says_why(name, seen):
    assert FAULTS[name].last_words in seen.errors[name]


def test_the_runbook_has_the_table():
    text = GUIDE.read_text()
    assert BEGIN + table() in text
    assert written(text) == text
    assert written(text.replace("| none |", "| some |")) == text


def test_a_minute_of_the_rules_is_two_seconds_of_the_test():
    durations = re.findall(r"\[(\w+)\]|for: (\w+)$", faster(RULES), re.M)
    assert len(durations) == len(re.findall(r"\[\w+\]|for: ", RULES))
    assert {(first or second)[-1] for first, second in durations} == {"s"}
    assert faster("rate(a[1h])\nfor: 10m\n") == "rate(a[120s])\nfor: 20s\n"
