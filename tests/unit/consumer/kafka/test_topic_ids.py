"""What the ids of topics say, and until when."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicCollection

from consumer.kafka.topic_ids import TopicIds
from tests.support.factories import FakeClock


class Admin:
    """Answers when it is told to, with the ids that it has then."""

    def __init__(self, **ids: str) -> None:
        self.ids = ids
        self.asked = 0
        self.error: int | None = None
        self._waiting: dict[str, Future[SimpleNamespace]] = {}

    def describe_topics(
        self, topics: TopicCollection, request_timeout: float
    ) -> dict[str, Future[SimpleNamespace]]:
        assert self.is_done, "one question at a time"
        self.asked += 1
        self._waiting = {topic: Future() for topic in topics.topic_names}
        return self._waiting

    @property
    def is_done(self) -> bool:
        return all(answer.done() for answer in self._waiting.values())

    def answer(self) -> None:
        for topic, answer in self._waiting.items():
            if self.error is not None:
                answer.set_exception(KafkaException(KafkaError(self.error)))
            elif topic in self.ids:
                answer.set_result(SimpleNamespace(topic_id=self.ids[topic]))
            else:
                answer.set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))


class Bench:
    """Two topics, and the clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.admin = Admin(a="1", b="2")
        self.topic_ids = TopicIds(self.admin, "a", ["b"], self.clock)

    def look(self) -> list[str]:
        """A question, and its answer half a second later."""
        self.clock.advance(1)
        assert self.topic_ids.turn(True) == []
        self.clock.advance(0.5)
        self.admin.answer()
        return self.topic_ids.turn(False)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_was_read_before_the_question_is_confirmed_by_its_answer(bench):
    assert bench.topic_ids.confirmed_at < 0
    assert bench.look() == []
    assert bench.topic_ids.confirmed_at == bench.clock() - 0.5


def test_each_topic_that_is_made_again_is_named_once(bench):
    bench.look()
    bench.admin.ids["b"] = "3"
    assert bench.look() == ["b"]
    assert bench.look() == []
    bench.admin.ids |= {"a": "4", "b": "5"}
    assert bench.look() == ["a", "b"]


@pytest.mark.parametrize(("missing", "confirmed"), [("a", False), ("b", True)])
def test_a_topic_that_is_missing_is_not_confirmed_and_is_noticed_when_it_is_back(bench, missing, confirmed):
    bench.look()
    del bench.admin.ids[missing]
    assert bench.look() == []
    assert (bench.topic_ids.confirmed_at > 0) == confirmed
    bench.admin.ids[missing] = "9"
    assert bench.look() == [missing]


@pytest.mark.parametrize(("busy", "questions"), [(False, 3), (True, 31)])
def test_it_asks_once_a_second_and_more_often_when_results_wait(bench, busy, questions):
    for _ in range(31):
        bench.topic_ids.turn(busy)
        if not bench.admin.is_done:
            bench.admin.answer()
            bench.topic_ids.turn(busy)
        bench.clock.advance(0.1)
    assert bench.admin.asked in (questions, questions + 1)


def test_a_broker_that_does_not_answer_changes_nothing(bench):
    bench.look()
    confirmed = bench.topic_ids.confirmed_at
    bench.admin.error = KafkaError._TIMED_OUT
    assert bench.look() == []
    assert bench.topic_ids.confirmed_at == confirmed
    bench.admin.error = None
    bench.clock.advance(2)
    assert bench.look() == []
    assert bench.topic_ids.confirmed_at > confirmed


def test_it_asks_less_often_while_no_broker_answers(bench):
    bench.admin.error = KafkaError._TIMED_OUT
    for _ in range(60):
        bench.topic_ids.turn(True)
        if not bench.admin.is_done:
            bench.clock.advance(1)
            bench.admin.answer()
            bench.topic_ids.turn(True)
        bench.clock.advance(0.1)
    assert bench.admin.asked == 2


def test_no_second_question_while_one_is_open(bench):
    for _ in range(10):
        bench.clock.advance(10)
        assert bench.topic_ids.turn(True) == []
    assert bench.admin.asked == 1


def test_a_result_that_waits_for_the_answer_alone_has_it_asked_sooner(bench):
    def asked_after(**state: bool) -> float:
        bench.look()
        bench.clock.advance(1)
        bench.topic_ids.turn(True)
        bench.admin.answer()
        asked, since = bench.admin.asked, bench.clock()
        while bench.admin.asked == asked:
            bench.clock.advance(0.005)
            bench.topic_ids.turn(**state)
        bench.admin.answer()
        return bench.clock() - since

    assert asked_after(busy=False) > asked_after(busy=True) > asked_after(busy=True, urgent=True)
