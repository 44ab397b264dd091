"""Kafka as the commands on a laptop use it: the service's settings, for a command that only talks to its topics."""

from __future__ import annotations

import os
from typing import Any

from consumer.cli.error_messages import UserError
from consumer.cli.invocation import typed
from consumer.config.settings import ServiceSettings, load_settings
from consumer.errors import ExitCode
from consumer.ops import logs


def client_settings(bootstrap: str | None, **overrides: Any) -> ServiceSettings:
    """The service's settings, for a command that only talks to its topics.

    The Kafka client's own log is silent unless VIRNUCPRO_LOG_LEVEL asks for it: the one line of an error says it.

    Args:
        bootstrap: address given on the command line; None takes VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS.
        overrides: further fields that options on the command line set.

    Raises:
        SettingsError: a variable is wrong.
        UserError: no broker is named.
    """
    if bootstrap is not None:
        overrides["kafka_bootstrap_servers"] = bootstrap
    settings = load_settings(os.environ, **overrides)
    if settings.embedded:
        raise UserError(
            f"no broker is named: start `{typed('serve')}` and pass the address that it prints "
            "with --bootstrap, or in VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS",
            ExitCode.USAGE,
        )
    logs.configure(
        settings.log_level if "VIRNUCPRO_LOG_LEVEL" in os.environ else "critical", settings.log_format
    )
    return settings
