"""Kafka clients of this package: their options, and what they say about a failed connection."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from virnucpro_client.errors import BrokerUnavailable

ANSWER_S = 15.0
"""How long a broker may take to answer a question about a topic."""
CREATED_S = 3.0
"""How long a topic may be unknown: a broker answers that it has created one before all brokers know it."""
_ASK_AGAIN_S = 0.1
_OF_A_NEW_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE})
_MOCK_CLUSTER = "mockCluster"
"""How the id of librdkafka's mock cluster begins, the service's embedded broker: it does not tell topics' settings."""

Options = Mapping[str, Any]


class Connection:
    """How the broker is reached, and the latest error of doing so.

    Args:
        bootstrap_servers: host:port, several with commas.
        options: of librdkafka, for security and the like; they win over this package's own.
    """

    def __init__(self, bootstrap_servers: str, options: Options) -> None:
        # By default the client logs each failed attempt to stderr; the errors of this package say it once.
        common = {"bootstrap.servers": bootstrap_servers, "error_cb": self._on_error, "log_level": 2}
        self._bootstrap, self._common, self._options = bootstrap_servers, common, dict(options)
        self._latest = ""

    @property
    def cause(self) -> str:
        """The latest error of a connection as " (text)", or ""."""
        return f" ({self._latest})" if self._latest else ""

    def producer_options(self) -> dict[str, Any]:
        """For one writer. A retry neither repeats nor reorders; a key goes to the partition that Java would choose."""
        own = {
            "client.id": "virnucpro-client",
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 5,
            "message.max.bytes": 1_000_000_000,  # the limit is the broker's
        }
        return self._common | own | self._options

    def consumer_options(self) -> dict[str, Any]:
        """For one reader that leaves no trace: it joins no group and commits nothing."""
        own = {
            "client.id": "virnucpro-client",
            "group.id": f"virnucpro-client-{uuid.uuid4()}",  # the client insists on one; it is never joined
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
        return self._common | own | self._options

    def partitions(self, consumer: Consumer, topic: str, timeout: float = ANSWER_S) -> range:
        """The partitions of a topic. One that a broker does not know is asked for again for `CREATED_S`.

        Raises:
            BrokerUnavailable: no broker answers, or the topic does not exist.
        """
        end = time.monotonic() + CREATED_S
        while True:
            try:
                found = consumer.list_topics(topic, timeout=timeout).topics[topic]
            except KafkaException as error:
                consumer.poll(0)  # calls `_on_error` with the cause, which the exception does not have
                raise self.unavailable(error) from error
            usable = found.error is None and bool(found.partitions)
            new = found.error is None or found.error.code() in _OF_A_NEW_TOPIC
            if usable or not new or time.monotonic() > end:
                break
            time.sleep(_ASK_AGAIN_S)
        if not usable:
            why = found.error.str() if found.error is not None else "it has no partitions"
            raise BrokerUnavailable(
                f"the topic {topic} cannot be used ({why}): create it, correct the name in "
                "Topics(...), or ask for the right"
            )
        return range(len(found.partitions))

    def largest_message(self, consumer: Consumer, topic: str) -> int | None:
        """Bytes of the largest message that a topic takes; None where the broker does not tell (DESCRIBE_CONFIGS).

        Raises:
            BrokerUnavailable: no broker answers.
        """
        try:
            if str(consumer.list_topics("", timeout=ANSWER_S).cluster_id).startswith(_MOCK_CLUSTER):
                return None
        except KafkaException as error:
            raise self.unavailable(error) from error
        options: dict[str, Any] = self._common | self._options
        asked = [ConfigResource(ResourceType.TOPIC, topic)]
        admin = AdminClient(options)  # without a reference it is closed before it has the answer
        (answer,) = admin.describe_configs(asked, request_timeout=ANSWER_S).values()
        try:
            told = answer.result(2 * ANSWER_S)["max.message.bytes"].value or ""
        except (KafkaException, KeyError):
            return None
        return int(told) if told.isdecimal() else None

    def unavailable(self, error: KafkaException) -> BrokerUnavailable:
        """What is raised for a call that failed."""
        said: KafkaError = error.args[0]
        return BrokerUnavailable(
            f"{self._bootstrap} gives no answer ({said.str()}){self.cause}: check the address, that the broker is up, "
            "and the options for TLS and SASL"
        )

    def _on_error(self, error: KafkaError) -> None:
        if not (self._latest and error.code() == KafkaError._ALL_BROKERS_DOWN):  # it follows each other error
            self._latest = error.str()
