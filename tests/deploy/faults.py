"""The faults that are tried on running services, the alert that each must raise, and where it is seen.

    python -m tests.deploy.faults --write

writes them as a table into docs/runbook.md. `tests/deploy/test_alerts.py` tries them, and compares that table.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deploy.monitoring.dashboard import ROWS
from tests.deploy.tools import ROOT
from tests.support.harness import NoopServe, produce
from tests.support.kafka import admin
from tests.support.kafka.broker import Broker
from tests.support.kafka.job import Job, record

GUIDE = ROOT / "docs/runbook.md"
BEGIN, END = "<!-- faults: written by python -m tests.deploy.faults --write -->\n", "<!-- /faults -->\n"
GOOD = record(0)
OF_NO_KNOWN_SCHEMA = b"\xc3\x01" + bytes(8) + GOOD[10:]
EXPECTED_SHA256 = "00" * 32
_OTHER_SHA256 = "bad0" * 16


@dataclass(frozen=True)
class Scene:
    """A service and the broker that it uses."""

    broker: Broker
    job: Job
    serve: NoopServe

    def publish(self, value: bytes, count: int) -> None:
        produce(self.job.bootstrap, ({"value": value} for _ in range(count)), f"{self.job.name}.in")


@dataclass(frozen=True)
class Fault:
    """What is done to a service.

    Attributes:
        alert: which must fire, and no other; empty for none.
        strike: does it.
        panel: of the dashboard, which shows it: its first query is above 0 then.
        not_ready: what `/readyz` says, or empty when it is ready or does not answer.
        last_words: what the last line of the log says, where the service ends by itself.
        settings: of the service.
        lasting: whether it strikes again and again.
        own_broker: whether the broker is the fault's alone.
    """

    alert: str
    strike: Callable[[Scene], object]
    panel: str = ""
    not_ready: str = ""
    last_words: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    lasting: bool = False
    own_broker: bool = False


def _good(scene: Scene) -> None:
    scene.publish(GOOD, 10)


def _letters_are_refused(scene: Scene) -> None:
    """Not even a letter without its message fits."""
    admin.configure_topic(scene.job.bootstrap, f"{scene.job.name}.dlq", "max.message.bytes", "100")
    scene.publish(b"junk", 20)


FAULTS = {
    "none: it works, and is idle": Fault("", _good),
    "the broker is stopped": Fault(
        "VirnucproBrokerUnreachable",
        lambda scene: scene.broker.stop(),
        panel="Without a broker",
        not_ready="no Kafka broker answers",
        own_broker=True,
    ),
    "the process is killed": Fault(
        "VirnucproDown", lambda scene: scene.serve.process.kill(), panel="Processes down"
    ),
    "the process is frozen": Fault(
        "VirnucproDown",
        lambda scene: scene.serve.process.send_signal(signal.SIGSTOP),
        panel="Processes down",
    ),
    "the dead-letter topic fills: every record is junk": Fault(
        "VirnucproDeadLetters", lambda scene: scene.publish(b"junk", 20), panel="Dead letters", lasting=True
    ),
    "the dead-letter topic takes no letter: its max.message.bytes is 100": Fault(
        "VirnucproDown",
        _letters_are_refused,
        panel="Processes down",
        last_words="raise max.message.bytes of the topic above",
    ),
    "every record has an unknown schema": Fault(
        "VirnucproBreakerOpen",
        lambda scene: scene.publish(OF_NO_KNOWN_SCHEMA, 20),
        panel="Breaker open",
        not_ready="breaker",
        settings={"VIRNUCPRO_BREAKER_RECORDS": "10"},
    ),
    "another model than the expected one is deployed": Fault(
        "VirnucproModelUnexpected", _good, panel="What runs", settings={"NOOP_SHA256": _OTHER_SHA256}
    ),
}


def with_expected_model(rules: str) -> str:
    """The rules as the chart makes them when `model.sha256` is set."""
    return rules.replace('sha256!~".+"', f'sha256!="{EXPECTED_SHA256}"')


def query_of(panel: str, job: str, interval: str) -> str:
    """The first query of a panel of the dashboard, for one job."""
    (found,) = [each for row in ROWS for each in row.panels if each.title == panel]
    query = found.queries if isinstance(found.queries, str) else next(iter(found.queries.values()))
    return query.replace("$S", f'job="{job}"').replace("$__rate_interval", interval)


def table() -> str:
    """The faults as a table of the runbook."""
    rows = ["| fault | alert | the dashboard's panel | `/readyz` |", "| --- | --- | --- | --- |"]
    for name, fault in FAULTS.items():
        alert = f"[{fault.alert}](#{fault.alert.lower()})" if fault.alert else "none"
        page = f"503, {fault.not_ready}" if fault.not_ready else "200"
        if fault.panel == "Processes down":
            page = "no answer"
        rows.append(f"| {name} | {alert} | {fault.panel or '-'} | {page} |")
    return "\n".join(rows) + "\n"


def written(text: str) -> str:
    """The guide with the table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="into docs/runbook.md; else it is printed")
    if parser.parse_args().write:
        GUIDE.write_text(written(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(table())


if __name__ == "__main__":
    main()
