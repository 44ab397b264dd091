"""The versions of what runs: the service, Python, the Kafka client, torch."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import confluent_kafka

from virnucpro_core import __version__


@cache
def versions() -> dict[str, str]:
    """Name -> version; a package that is not installed is left out. Nothing is imported for it."""
    found = {
        "virnucpro-stream": __version__,
        "python": platform.python_version(),
        "librdkafka": str(confluent_kafka.libversion()[0]),
    }
    for package in ("torch", "confluent-kafka"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
