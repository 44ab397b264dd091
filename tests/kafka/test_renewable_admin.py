"""The client that asks about topics: one that finds no broker makes room for one that does."""

from __future__ import annotations

import time
from concurrent.futures import wait
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from consumer.kafka.renewable_admin import SILENT_S, RenewableAdmin
from tests.support.factories import FakeClock
from tests.support.kafka.kraft import free_port


def test_a_client_without_a_broker_is_replaced_by_one_that_finds_it(job):
    clock = FakeClock()
    alone = AdminClient({"bootstrap.servers": f"127.0.0.1:{free_port()}", "log_level": 0})
    admin = RenewableAdmin(alone, lambda: AdminClient({"bootstrap.servers": job.bootstrap}), clock)
    topic = f"{job.name}.in"

    def ask() -> Any:
        (answer,) = admin.describe_topics(TopicCollection([topic]), request_timeout=1.0).values()
        assert wait([answer], 10).done
        return answer

    for _ in range(2):
        assert isinstance(ask().exception(), KafkaException)
        clock.advance(SILENT_S / 2)
    del alone
    began = time.monotonic()
    assert ask().result().name == topic
    assert time.monotonic() - began < 5, "the old one is dropped without waiting for its broker"
