"""When the client that asks about topics is replaced."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from consumer.kafka.renewable_admin import SILENT_S, RenewableAdmin
from tests.support.factories import FakeClock

OWN = (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN)
TOPICS = TopicCollection(["a", "b"])


class Client:
    """Keeps the questions that it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Future[Any]] = {}

    def describe_topics(self, topics: TopicCollection, request_timeout: float) -> dict[str, Future[Any]]:
        self.answers = {name: Future() for name in topics.topic_names}
        return self.answers


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.clients = [Client()]
        first = cast(AdminClient, self.clients[0])
        self.admin = RenewableAdmin(first, self.make, self.clock)

    def make(self) -> AdminClient:
        self.clients.append(Client())
        return cast(AdminClient, self.clients[-1])

    def ask(self, *codes: int | None, seconds: float = 1.0) -> None:
        """A question, and its answers after a time: error codes, None for a broker's word."""
        self.admin.describe_topics(TOPICS, request_timeout=1.0)
        self.clock.advance(seconds)
        for answer, code in zip(self.clients[-1].answers.values(), codes, strict=True):
            if code is None:
                answer.set_result(SimpleNamespace(topic_id="1"))
            else:
                answer.set_exception(KafkaException(KafkaError(code)))


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("code", OWN)
def test_a_client_that_no_broker_answers_for_long_is_replaced(bench: Bench, code: int) -> None:
    for _ in range(int(SILENT_S)):
        bench.ask(code, code)
        assert len(bench.clients) == 1
    bench.ask(None, None)
    assert len(bench.clients) == 2, "and the question is the new one's"
    assert all(answer.done() for answer in bench.clients[1].answers.values())


def test_the_new_client_has_as_long(bench: Bench) -> None:
    code = KafkaError._TRANSPORT
    for _ in range(2 * int(SILENT_S)):
        bench.ask(code, code)
    assert len(bench.clients) == 2
    bench.ask(code, code)
    assert len(bench.clients) == 3


@pytest.mark.parametrize("word", [None, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.BROKER_NOT_AVAILABLE])
def test_whatever_a_broker_says_is_an_answer(bench: Bench, word: int | None) -> None:
    code = KafkaError._TIMED_OUT
    for number in range(3 * int(SILENT_S)):
        bench.ask(code, word if number % 10 == 9 else code)
    assert len(bench.clients) == 1


def test_not_being_asked_is_no_silence(bench: Bench) -> None:
    bench.ask(None, None)
    bench.clock.advance(10 * SILENT_S)
    bench.ask(KafkaError._TRANSPORT, KafkaError._TRANSPORT)
    bench.ask(None, None)
    assert len(bench.clients) == 1
