"""A real broker in a container, where a Docker engine answers."""

from __future__ import annotations

from collections.abc import Mapping

from testcontainers.community.kafka import KafkaContainer

from tests.support.kafka import admin
from tests.support.kafka.broker import PROPERTIES

IMAGE = (
    "confluentinc/cp-kafka:8.0.0"  # Kafka 4.0, the first that serves groups of KIP-848 without being asked to
)
_START_S = 120


class ContainerBroker:
    """One broker in a container; removed with everything in it by `stop`."""

    def __init__(self) -> None:
        self._container = KafkaContainer(IMAGE).with_kraft().with_envs(**variables(PROPERTIES))
        self.bootstrap_servers = ""

    def start(self) -> ContainerBroker:
        """Fetch the image if it is not there, start a container and wait until the broker serves."""
        try:
            self._container.start(timeout=_START_S)
        except BaseException:
            self._container.stop()
            raise
        self.bootstrap_servers = self._container.get_bootstrap_server()
        return self

    def stop(self) -> None:
        """Remove the container."""
        self._container.stop()

    def create_topics(self, topics: Mapping[str, int], **config: str) -> None:
        """Create topics, each with its number of partitions."""
        admin.create_topics(self.bootstrap_servers, topics, config)


def variables(properties: Mapping[str, object]) -> dict[str, str]:
    """A broker's properties as the environment variables that the image makes them from."""
    return {f"KAFKA_{name.replace('.', '_').upper()}": str(value) for name, value in properties.items()}
