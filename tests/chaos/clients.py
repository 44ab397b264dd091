"""What the run's own Kafka clients have in common: they live through a broker that goes, and keep silent about it."""

from __future__ import annotations


def client_config(bootstrap: str) -> dict[str, str | int | float | bool]:
    return {
        "bootstrap.servers": bootstrap,
        "reconnect.backoff.max.ms": 500,  # the default of 10 s would be taken for the service's own recovery
        "log_level": 2,  # a broker that is away is no news here
    }
