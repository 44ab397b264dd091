"""Kafka as the commands on a laptop use it: settings, clients, and one clear line when no broker answers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaException

from consumer import logs
from consumer.brokers import BrokerWatch, partition_counts
from consumer.cli.errors import UserError
from consumer.clock import Deadline
from consumer.exit_codes import ExitCode
from consumer.settings import Settings, load_settings

_ASK_S = 2.0


def client_settings(bootstrap: str | None) -> Settings:
    """The service's settings, for a command that only talks to its topics.

    The Kafka client's own log is silent unless VIRNUCPRO_LOG_LEVEL asks for it: the one line of an error says it.

    Args:
        bootstrap: address given on the command line; None takes VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS.

    Raises:
        SettingsError: a variable is wrong.
        UserError: no broker is named.
    """
    overrides: dict[str, Any] = {} if bootstrap is None else {"kafka_bootstrap_servers": bootstrap}
    # How the service commits is no matter of these commands; without it a bootstrap address alone is refused.
    settings = load_settings(os.environ, delivery="at_least_once", **overrides)
    if settings.embedded:
        raise UserError(
            "no broker is named: start `virnucpro serve` and pass the address that it prints "
            "with --bootstrap, or in VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS",
            ExitCode.USAGE,
        )
    logs.configure(
        settings.log_level if "VIRNUCPRO_LOG_LEVEL" in os.environ else "critical", settings.log_format
    )
    return settings


def await_topics(
    client: Any, topics: Iterable[str], bootstrap: str, watch: BrokerWatch, timeout: float
) -> dict[str, int]:
    """Partition counts of topics that must exist; asks until a broker answers.

    Args:
        client: a producer or a consumer with `watch.on_error` as its error callback.
        timeout: seconds.

    Raises:
        UserError: no broker answers in time, or a topic doesn't exist.
    """
    deadline = Deadline.after(timeout)
    while True:
        try:
            counts = partition_counts(client, topics, min(_ASK_S, max(0.1, deadline.remaining())))
            break
        except KafkaException as error:
            client.poll(0)  # brings the error callback, which knows the cause
            if deadline.expired:
                why = watch.why() or f" ({error.args[0].str()})"
                raise UserError(
                    f"no Kafka broker answers at {bootstrap} within {timeout:.0f} s{why}: "
                    "check the address, and that the broker is up"
                ) from error
    for topic in topics:
        if topic not in counts:
            raise UserError(
                f"the topic {topic} does not exist at {bootstrap}: create it, or name another with --topic"
            )
    return counts
