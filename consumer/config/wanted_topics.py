"""What the service's settings ask of its three topics."""

from __future__ import annotations

from consumer.config.clients import OVERHEAD_BYTES
from consumer.config.settings import ServiceSettings
from consumer.kafka.topic_plan import MAX_MESSAGE, MIN_INSYNC, POLICY, RETENTION, WantedTopic

_KEY_AND_HEADERS_BYTES = 64 * 1024
_MS_PER_HOUR = 3_600_000


def wanted_topics(settings: ServiceSettings) -> tuple[WantedTopic, WantedTopic, WantedTopic]:
    """Input, output and dead letters.

    The topics for answers have as many partitions as the input, which keeps its order, take an answer to the largest
    message that the service decodes, and are not compacted. What the settings leave open is left to the broker.
    """
    exact: dict[str, str] = {}
    if settings.topic_retention_hours is not None:
        exact[RETENTION] = str(round(settings.topic_retention_hours * _MS_PER_HOUR))
    if settings.topic_min_insync_replicas is not None:
        exact[MIN_INSYNC] = str(settings.topic_min_insync_replicas)

    def wanted(name: str, role: str, overhead: int, answers: bool) -> WantedTopic:
        return WantedTopic(
            name,
            role,
            settings.topic_partitions,
            settings.input_topic if answers else None,
            settings.topic_replication,
            {MAX_MESSAGE: settings.max_message_bytes + overhead},
            exact | ({POLICY: "delete"} if answers else {}),
        )

    return (
        wanted(settings.input_topic, "VIRNUCPRO_INPUT_TOPIC", _KEY_AND_HEADERS_BYTES, answers=False),
        wanted(settings.output_topic, "VIRNUCPRO_OUTPUT_TOPIC", OVERHEAD_BYTES, answers=True),
        wanted(settings.dlq_topic, "VIRNUCPRO_DLQ_TOPIC", OVERHEAD_BYTES, answers=True),
    )
