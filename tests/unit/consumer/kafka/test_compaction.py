"""Which cleanup policies of the topics for answers the service refuses."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ConfigResource
from structlog.testing import capture_logs

from consumer.errors import ServiceError
from consumer.kafka.compaction import refuse_compacted

NAMES = {"out": "VIRNUCPRO_OUTPUT_TOPIC", "dlq": "VIRNUCPRO_DLQ_TOPIC"}


class Admin:
    """Gives the policy of each topic, or the error that stands for it."""

    def __init__(self, **policies: str | KafkaError) -> None:
        self._policies = policies

    def describe_configs(
        self, resources: list[ConfigResource], request_timeout: float
    ) -> dict[ConfigResource, Future[dict[str, SimpleNamespace]]]:
        return {resource: self._answer(resource.name) for resource in resources}

    def _answer(self, topic: str) -> Future[dict[str, SimpleNamespace]]:
        answer: Future[dict[str, SimpleNamespace]] = Future()
        policy = self._policies[topic]
        if isinstance(policy, KafkaError):
            answer.set_exception(KafkaException(policy))
        else:
            answer.set_result({"cleanup.policy": SimpleNamespace(value=policy)})
        return answer


def test_topics_that_delete_are_taken():
    refuse_compacted(Admin(out="delete", dlq=""), NAMES)


@pytest.mark.parametrize("policy", ["compact", "compact,delete", "delete,compact"])
def test_every_compacted_topic_is_named_with_its_variable_and_the_cure(policy):
    with pytest.raises(ServiceError, match=r"dlq \(VIRNUCPRO_DLQ_TOPIC\).*cleanup.policy=delete") as raised:
        refuse_compacted(Admin(out="delete", dlq=policy), NAMES)
    assert "VIRNUCPRO_OUTPUT_TOPIC" not in str(raised.value)
    assert raised.value.exit_code == 1


def test_a_broker_that_does_not_say_is_logged_and_the_others_are_checked():
    denied = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with capture_logs() as lines:
        refuse_compacted(Admin(out=denied, dlq="delete"), NAMES)
    assert [(line["event"], line["topic"]) for line in lines] == [("cleanup_policy_not_checked", "out")]
    with pytest.raises(ServiceError, match="dlq"):
        refuse_compacted(Admin(out=denied, dlq="compact"), NAMES)
