"""What the service asks the cluster itself: does a broker answer, do the topics exist, with how many partitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from consumer.clock import Clock, Deadline, monotonic
from consumer.errors import ServiceError
from consumer.health import Health

log = structlog.get_logger(__name__)

_ASK_S = 1.0
_PROBE_EVERY_S = 5.0
_CURES: Mapping[int, str] = {
    KafkaError._AUTHENTICATION: "check VIRNUCPRO_KAFKA_SASL_USERNAME, ..._SASL_PASSWORD and ..._SASL_MECHANISM",
    KafkaError._SSL: "check VIRNUCPRO_KAFKA_SSL_CA_LOCATION and VIRNUCPRO_KAFKA_SECURITY_PROTOCOL",
}


class BrokerWatch:
    """Keeps what the clients' error callbacks say; they alone name the cause of a failed connection.

    Args:
        health: told when no broker answers, and when one does again.
    """

    def __init__(self, health: Health, clock: Clock = monotonic) -> None:
        self._health, self._clock = health, clock
        self._cause: KafkaError | None = None
        self._last: KafkaError | None = None
        self._down = False
        self._probe_at = 0.0

    def on_error(self, error: KafkaError) -> None:
        """The `error_cb` of every client."""
        log.warning("Kafka client error", error=error.str(), code=error.name())
        self._last = error
        if error.code() in _CURES:
            self._cause = error
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down = True
            self._health.brokers(False)

    def why(self) -> str:
        """The last error, the telling ones first, as " (cause: cure)"; empty when there was none."""
        error = self._cause or self._last
        if error is None:
            return ""
        cure = _CURES.get(error.code())
        return f" ({error.str()})" + (f": {cure}" if cure else "")

    def probe(self, client: Any) -> None:
        """While brokers are down, ask now and then (at most a quarter of a second) whether one is back."""
        if not self._down or self._clock() < self._probe_at:
            return
        self._probe_at = self._clock() + _PROBE_EVERY_S
        try:
            client.list_topics("", timeout=_ASK_S / 4)
        except KafkaException:
            return
        self._down = False
        self._health.brokers(True)
        log.info("a Kafka broker answers again")


def await_topics(
    producer: Producer, topics: Iterable[str], bootstrap: str, watch: BrokerWatch, deadline: Deadline
) -> dict[str, int]:
    """Partition counts of topics that must exist, asked until a broker answers.

    Raises:
        ServiceError: no broker answers within the deadline, or a topic doesn't exist.
    """
    while True:
        try:
            counts = partition_counts(producer, topics, _ASK_S)
            break
        except KafkaException as error:
            producer.poll(0)  # brings the error callback, which knows more
            if deadline.expired:
                cause = watch.why() or f" ({error.args[0].str()})"
                raise ServiceError(
                    f"no Kafka broker answers at {bootstrap}{cause}; "
                    "is VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS right, and the broker up?"
                ) from error
    missing = [topic for topic in topics if topic not in counts]
    if missing:
        raise ServiceError(
            f"the topic {missing[0]} does not exist at {bootstrap}: create it, or name another "
            "(VIRNUCPRO_INPUT_TOPIC, VIRNUCPRO_OUTPUT_TOPIC, VIRNUCPRO_DLQ_TOPIC)"
        )
    return counts


def partition_counts(client: Any, topics: Iterable[str], timeout: float) -> dict[str, int]:
    """How many partitions each of the topics has; one that doesn't exist is left out.

    Asks for all topics: naming one would create it where the broker creates topics by itself.

    Raises:
        KafkaException: no answer within `timeout` seconds.
    """
    known = client.list_topics(timeout=timeout).topics
    found = {topic: known[topic] for topic in topics if topic in known}
    return {topic: len(entry.partitions) for topic, entry in found.items() if entry.error is None}
