"""Client configurations: librdkafka's options for each use, every deviation from its defaults with the reason.

In each of them the options that a user passes through win over what is only tuning, and lose against what the
service's promises hang on (those are refused already, see consumer/config/environment.py).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from consumer.config.settings import ServiceSettings
from consumer.errors import ServiceError

Client = TypeVar("Client", Consumer, Producer, AdminClient)

_LOGGER = logging.getLogger("librdkafka")
OVERHEAD_BYTES = 1 << 20
"""Of a dead letter or a prediction, beyond the message that it answers."""
_ANY_BYTES = 1_000_000_000  # librdkafka's maximum

_WRITING: dict[str, Any] = {
    # Java's choice of partition: whoever publishes with a Java client gets the same one for a key.
    "partitioner": "murmur2_random",
    "compression.type": "lz4",
    "linger.ms": 5,
}
# Options that the other kind of client would only warn about.
_READERS = re.compile(
    r"group\.|session\.timeout|heartbeat\.|max\.poll|coordinator\.query|auto\.offset\.reset|queued\.|fetch\.|check\.crcs"
)
_WRITERS = re.compile(
    r"linger|batch\.|compression|partitioner|queue\.buffering|(message|delivery|request)\.timeout|message\.send|"
    r"retries|retry\.backoff|sticky\.|msg_order"
)
# With the default a client forgets a broker that is missing from one answer, as each is for a moment when it starts.
# The group's coordinator is then remembered as one that never comes back, and a call of the producer hangs (librdkafka
# #5511). The client that asks about topics was seen without any connection for minutes, after two of three brokers had
# been killed at once (tests/chaos), and results wait for its answers. Brokers that come and go are followed with this
# too. A client that forgets its last broker stays without one: consumer/kafka/renewable_admin.py. Remove when #5511 is
# fixed; before that, tests/chaos fails without it.
_KEEPS_BROKERS: dict[str, Any] = {"metadata.recovery.strategy": "none"}
_IDEMPOTENT: dict[str, Any] = {"enable.idempotence": True, "acks": "all"}


def common_config(settings: ServiceSettings, foreign: re.Pattern[str] = _WRITERS) -> dict[str, Any]:
    """How to reach the broker, for any client: `watch` reads with nothing more than this of the service.

    Args:
        foreign: options of the other kind of client, left out.
    """
    owned = {"bootstrap.servers": settings.kafka_bootstrap_servers, "logger": _LOGGER}
    return {"client.id": f"virnucpro-{settings.instance_id}"} | _without(settings.kafka, foreign) | owned


def asking_config(settings: ServiceSettings) -> dict[str, Any]:
    """For the client that only asks for metadata: neither a reader's options nor a writer's."""
    return _KEEPS_BROKERS | _without(common_config(settings), _READERS)


def consumer_config(settings: ServiceSettings) -> dict[str, Any]:
    """For the service's consumer; offsets are stored and committed by delivery alone."""
    tuning = {
        # The default is latest: a group's first start would silently skip what is there already.
        "auto.offset.reset": "earliest",
        # Bounds on memory: the defaults prefetch 64 MiB, and 100,000 messages for each partition. The size counts keys
        # and values only, so the number has to bound messages that are all headers.
        "queued.max.messages.kbytes": 32_768,
        "queued.min.messages": 500,
        # The default of 1 s starves a reader whose queue is that small.
        "fetch.queue.backoff.ms": 10,
        # The default of 60 s is how long a commit or a leave may hang on a broker that does not answer.
        "socket.timeout.ms": 10_000,
    }
    if not _broker_assigns(settings):
        # Partitions that move to another member wait until it hears of it, at its next heartbeat: 3 s by default.
        tuning["heartbeat.interval.ms"] = 500
    owned = {
        "group.id": settings.group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        # The client raises fetch.max.bytes to this one, so that VIRNUCPRO_KAFKA_FETCH_MAX_BYTES could not be small. It
        # has no other effect on a reader. The default of fetch.max.bytes (50 MiB, 1 MiB for each partition) stays: with
        # less, a broker fills a fetch from the first partition alone for as long as that has a backlog.
        "message.max.bytes": 1000,
    }
    if not _broker_assigns(settings):
        owned["partition.assignment.strategy"] = "cooperative-sticky"
    return tuning | common_config(settings) | owned


def producer_config(
    settings: ServiceSettings, guarantee: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """For the service's producer: idempotent, so that a retry neither repeats nor reorders.

    Args:
        guarantee: what the delivery guarantee needs besides; wins over all else.
    """
    tuning = {
        # A dead letter holds the raw message; the broker's and the topic's own limits still apply.
        "message.max.bytes": settings.max_message_bytes + OVERHEAD_BYTES,
    }
    return (
        _WRITING | _KEEPS_BROKERS | tuning | common_config(settings, _READERS) | _IDEMPOTENT | dict(guarantee)
    )


def publisher_config(bootstrap: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """For `virnucpro publish`: like the service's producer, and a message may be as large as the broker takes.

    Args:
        bootstrap: host:port, several with commas.
        extra: further options, from `client_options`.
    """
    tuning = {"client.id": "virnucpro-publish", "message.max.bytes": _ANY_BYTES}
    return (
        _WRITING
        | tuning
        | _without(extra, _READERS)
        | {"bootstrap.servers": bootstrap, "logger": _LOGGER}
        | _IDEMPOTENT
    )


def new_client(kind: type[Client], config: dict[str, Any]) -> Client:
    """A Kafka client.

    Raises:
        ServiceError: librdkafka refuses an option; one line says which.
    """
    try:
        return kind(config)
    except KafkaException as error:
        raise ServiceError(f"the Kafka client refuses its options: {error.args[0].str()}") from error


def _broker_assigns(settings: ServiceSettings) -> bool:
    """In groups of the newer protocol, in the same gradual way; how often members report is its decision too."""
    return settings.kafka.get("group.protocol") == "consumer"


def _without(options: Mapping[str, Any], foreign: re.Pattern[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if not foreign.match(name)}
