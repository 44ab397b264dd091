"""`virnucpro topics`: the input, output and dead-letter topics of a cluster, as the settings ask for them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.cli.invocation import typed
from consumer.cli.options import AsJson, Bootstrap, FirstAnswer, command_group, given
from consumer.errors import ExitCode

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

    from consumer.config.settings import ServiceSettings
    from consumer.kafka.topic_plan import Difference, FoundTopic, WantedTopic

topics = command_group(
    "The three topics of the service: look at them, compare them with the settings, create and alter them."
)

Partitions = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Partitions of each topic. [default: VIRNUCPRO_TOPIC_PARTITIONS, or as they are]",
    ),
]
Replication = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Copies of each partition. [default: VIRNUCPRO_TOPIC_REPLICATION, or the broker's]",
    ),
]
RetentionHours = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        metavar="H",
        help="Hours that messages are kept. [default: VIRNUCPRO_TOPIC_RETENTION_HOURS, or the broker's]",
    ),
]
MinInsync = Annotated[
    int | None,
    typer.Option(
        "--min-insync-replicas",
        min=1,
        metavar="N",
        help="Copies that must have a message. [default: VIRNUCPRO_TOPIC_MIN_INSYNC_REPLICAS, or the broker's]",
    ),
]

SHOWN_WITHIN_S = 15.0


class _Cluster:
    """The topics of one cluster beside what the settings ask of them.

    Raises:
        ServiceError: no broker answers, or it is an embedded one.
    """

    def __init__(self, settings: ServiceSettings, timeout: float) -> None:
        from confluent_kafka.admin import AdminClient

        from consumer.cli.error_messages import UserError
        from consumer.config.clients import asking_config, new_client
        from consumer.config.wanted_topics import wanted_topics
        from consumer.kafka.cluster import BrokerWatch, await_topics, is_embedded

        self.address = settings.kafka_bootstrap_servers
        self.wanted: tuple[WantedTopic, ...] = wanted_topics(settings)
        watch = BrokerWatch()
        self.admin: AdminClient = new_client(
            AdminClient, asking_config(settings) | {"error_cb": watch.on_error}
        )
        await_topics(self.admin, [], self.address, watch, timeout, "command")
        if is_embedded(self.admin, self.address):
            raise UserError(
                f"the broker at {self.address} is an embedded one, which makes its topics itself: nothing is to do"
            )

    def found(self) -> dict[str, FoundTopic]:
        """The topics that are there now."""
        from consumer.kafka.topic_admin import find_topics

        return find_topics(self.admin, [topic.name for topic in self.wanted])

    def differences(self, found: Mapping[str, FoundTopic]) -> list[Difference]:
        """How these are not as the settings ask.

        Raises:
            UserError: their settings are not shown, so that there may be more.
        """
        from consumer.cli.error_messages import UserError
        from consumer.kafka.topic_plan import differences

        hidden = [topic.name for topic in found.values() if topic.config is None]
        if hidden:
            raise UserError(
                f"the broker does not show the settings of {', '.join(hidden)}: grant this client DESCRIBE_CONFIGS"
            )
        return differences(self.wanted, found)

    def mend(self) -> tuple[list[Difference], list[Difference]]:
        """Make every change that a client can make; returns the differences that were mended, and those that are left.

        The broker shows with a delay what it has done, so it is asked until nothing more is to be done.

        Raises:
            ServiceError: the broker refuses a change.
            UserError: it shows no sign of one that it has acknowledged.
        """
        from consumer.cli.error_messages import UserError
        from consumer.clock import Deadline
        from consumer.kafka.topic_admin import mend

        mended: list[Difference] = []
        deadline = Deadline.after(SHOWN_WITHIN_S)
        while True:
            found = self.found()
            listed = self.differences(found)
            changes = [each for each in listed if each.change is not None]
            if not changes:
                return mended, listed
            for change in changes:
                if change not in mended:
                    mend(self.admin, self.wanted, found, change)
                    mended.append(change)
            if deadline.expired:
                raise UserError(
                    f"{changes[0]}, although the broker has acknowledged the change: look at its log, "
                    "and whether another program changes the topics"
                )
            time.sleep(0.1)


@topics.command()
def ensure(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")
    ] = False,
    bootstrap: Bootstrap = None,
    partitions: Partitions = None,
    replication: Replication = None,
    retention_hours: RetentionHours = None,
    min_insync_replicas: MinInsync = None,
    as_json: AsJson = False,
    timeout: FirstAnswer = 10.0,
) -> None:
    """Create the topics that are missing, and alter those that are not as the settings ask.

    What no client can alter (fewer partitions, the number of replicas) is named with what to do. Messages are never
    deleted, apart from those that a shorter retention lets the broker delete. More partitions move keys: records of
    one key that were published before and after may overtake each other once.
    The exit code is 1 when a difference is left.

    Example: `virnucpro topics ensure --bootstrap kafka:9092 --partitions 12 --replication 3 --dry-run`
    """
    cluster = _cluster(bootstrap, timeout, partitions, replication, retention_hours, min_insync_replicas)
    if dry_run:
        listed = cluster.differences(cluster.found())
        mended = [each for each in listed if each.change is not None]
        left = [each for each in listed if each.change is None]
    else:
        mended, left = cluster.mend()
    _print_mended(mended, left, dry_run, as_json)
    if left:
        raise typer.Exit(ExitCode.RUNTIME)


@topics.command()
def check(
    bootstrap: Bootstrap = None,
    partitions: Partitions = None,
    replication: Replication = None,
    retention_hours: RetentionHours = None,
    min_insync_replicas: MinInsync = None,
    as_json: AsJson = False,
    timeout: FirstAnswer = 10.0,
) -> None:
    """Print how the topics differ from what the settings ask, and change nothing.

    The exit code is 1 when they differ.

    Example: `virnucpro topics check --bootstrap kafka:9092 --json | jq -r '.differences[].setting'`
    """
    cluster = _cluster(bootstrap, timeout, partitions, replication, retention_hours, min_insync_replicas)
    listed = cluster.differences(cluster.found())
    if as_json:
        print(json.dumps({"differences": _plain(listed)}, indent=2))
    else:
        _print_lines(listed)
        if any(each.change is not None for each in listed):
            print(
                f"`{typed('topics', 'ensure')}` with the same settings and options mends what can be altered"
            )
        if not listed:
            print(f"the topics at {cluster.address} are as the settings ask")
    if listed:
        raise typer.Exit(ExitCode.RUNTIME)


@topics.command()
def describe(bootstrap: Bootstrap = None, as_json: AsJson = False, timeout: FirstAnswer = 10.0) -> None:
    """Show the three topics as they are: partitions, replicas, retention, sizes, cleanup policy.

    Example: `virnucpro topics describe --bootstrap kafka:9092`
    """
    from consumer.kafka.topic_plan import CONFIGS

    cluster = _cluster(bootstrap, timeout)
    found = cluster.found()
    if as_json:
        shown = {topic.name: _described(found.get(topic.name)) for topic in cluster.wanted}
        print(json.dumps({"topics": shown}, indent=2))
        return
    for topic in cluster.wanted:
        there = found.get(topic.name)
        print(f"{topic.name} ({topic.role})" + ("" if there else ": does not exist"))
        if there is None:
            continue
        rows = {"partitions": str(there.partitions), "replication": str(there.replication)}
        for name in CONFIGS:
            rows[name] = "not shown" if there.config is None else there.config.get(name, "")
        for name, value in rows.items():
            print(f"  {name:20} {value}")


def _cluster(
    bootstrap: str | None,
    timeout: float,
    partitions: int | None = None,
    replication: int | None = None,
    retention_hours: float | None = None,
    min_insync_replicas: int | None = None,
) -> _Cluster:
    from consumer.cli.topics.client_settings import client_settings

    overrides = given(
        topic_partitions=partitions,
        topic_replication=replication,
        topic_retention_hours=retention_hours,
        topic_min_insync_replicas=min_insync_replicas,
    )
    return _Cluster(client_settings(bootstrap, **overrides), timeout)


def _described(topic: FoundTopic | None) -> dict[str, Any] | None:
    if topic is None:
        return None
    config = None if topic.config is None else dict(topic.config)
    return {"partitions": topic.partitions, "replication": topic.replication, "config": config}


def _plain(listed: Iterable[Difference]) -> list[dict[str, Any]]:
    return [asdict(each) for each in listed]


def _print_lines(listed: Iterable[Difference]) -> None:
    for each in listed:
        print(each)


def _print_mended(mended: list[Difference], left: list[Difference], dry_run: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"dry_run": dry_run, "mended": _plain(mended), "left": _plain(left)}, indent=2))
        return
    would = "would be " if dry_run else ""
    for each in mended:
        if each.change == "create":
            print(f"{each.topic}: {would}created with {each.wanted}")
        else:
            print(
                f"{each.topic}: {each.setting} {would}set from {each.found} to {each.wanted.removeprefix('at least ')}"
            )
    _print_lines(left)
    if not mended and not left:
        print("the topics are as the settings ask")
