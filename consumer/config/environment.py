"""Environment variables with our prefix: settings, options of the Kafka client, and what is neither.

`VIRNUCPRO_KAFKA_<OPTION>` is the option of librdkafka with that name, in small letters and with dots:
`VIRNUCPRO_KAFKA_SASL_USERNAME` is `sasl.username`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from consumer.config.secrets import MASK, hide, masked_option

PREFIX = "VIRNUCPRO_"
KAFKA_PREFIX = "VIRNUCPRO_KAFKA_"
BOOTSTRAP_SERVERS = "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS"

# Kubernetes puts the addresses of the Services of a namespace into each pod. One that is called virnucpro, or
# virnucpro-kafka, gives variables with our prefix, which are not settings (and VIRNUCPRO_HTTP_PORT=tcp://...).
_LINK_NAME = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$"
)
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")
# Names of librdkafka that do not follow its own rule.
_UNDERSCORED = {"log.level": "log_level"}

_DELIVERY = "VIRNUCPRO_DELIVERY decides it"
_ROUNDS = "the service takes and gives partitions in its own way"
OWNED: Mapping[str, str] = {
    "metadata.broker.list": f"set {BOOTSTRAP_SERVERS}",
    "group.id": "set VIRNUCPRO_GROUP_ID",
    "group.instance.id": _ROUNDS,
    "partition.assignment.strategy": _ROUNDS,
    "enable.auto.commit": _DELIVERY,
    "auto.commit.interval.ms": "set VIRNUCPRO_COMMIT_INTERVAL_MS",
    "enable.auto.offset.store": _DELIVERY,
    "enable.partition.eof": "the service has no use for it",
    "isolation.level": _DELIVERY,
    "enable.idempotence": _DELIVERY,
    "enable.gapless.guarantee": _DELIVERY,
    "acks": _DELIVERY,
    "request.required.acks": _DELIVERY,
    "transactional.id": _DELIVERY,
    "transaction.timeout.ms": _DELIVERY,
    "delivery.report.only.error": _DELIVERY,
    "test.mock.num.brokers": f"set {BOOTSTRAP_SERVERS}=embedded",
}
"""Options that can't be passed through, since the service's promises hang on them; with what to do instead."""

_OF_CLASSIC_GROUPS = frozenset(("session.timeout.ms", "heartbeat.interval.ms", "group.protocol.type"))


class SettingsError(ValueError):
    """Settings that cannot be used: one line for each problem, naming its variable and what that takes."""


def prefixed(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables with our prefix, without those that Kubernetes makes for Services."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(PREFIX) and not _LINK_NAME.search(name) and not _is_link_port(name, value)
    }


def client_options(environment: Mapping[str, str]) -> dict[str, str]:
    """Options for the Kafka client from `VIRNUCPRO_KAFKA_*`, the bootstrap servers left out.

    `publish` and `watch` take these too, so that both reach the broker in the same way.

    Raises:
        SettingsError: an option is unknown to librdkafka, has a value that it refuses, or is the service's own.
    """
    options: dict[str, str] = {}
    problems: list[str] = []
    for name, value in sorted(prefixed(environment).items()):
        if not name.startswith(KAFKA_PREFIX) or name == BOOTSTRAP_SERVERS:
            continue
        option = _option(name)
        if masked_option(option, value) == MASK:
            hide(value)
        problem = _problem(option, value)
        if problem:
            problems.append(f"{name} is refused: {problem}")
        options[option] = value
    if options.get("group.protocol") == "consumer":
        problems += [
            f"{option_variable(option)} is refused: with group.protocol=consumer the broker decides it, unset it"
            for option in _OF_CLASSIC_GROUPS & options.keys()
        ]
    if problems:
        raise SettingsError("\n".join(problems))
    return options


def option_variable(option: str) -> str:
    """The variable that sets an option of the Kafka client."""
    return KAFKA_PREFIX + option.replace(".", "_").upper()


def _is_link_port(name: str, value: str) -> bool:
    return name.endswith("_PORT") and bool(_LINK_VALUE.match(value))


def _option(name: str) -> str:
    option = name.removeprefix(KAFKA_PREFIX).lower().replace("_", ".")
    return _UNDERSCORED.get(option, option)


def _problem(option: str, value: str) -> str | None:
    if option in OWNED:
        return f"the option {option} is the service's own ({OWNED[option]})"
    # Imported here, so that a command for files does not load the Kafka client.
    from consumer.kafka.librdkafka import option_problem

    problem = option_problem(option, value)
    if problem and masked_option(option, value) == MASK:
        return f"the Kafka client does not take this value for {option}"
    return problem and f"the Kafka client says: {problem}"
