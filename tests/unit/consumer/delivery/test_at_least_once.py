"""At least once: nothing is committed before its answer is acknowledged, nothing is lost on the way."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, TopicPartition

from consumer.clock import Deadline
from consumer.delivery.answers import OutgoingBuilder
from consumer.delivery.at_least_once import AtLeastOnce
from consumer.delivery.contract import DeliveryObserver
from consumer.errors import ExitCode, KafkaFatal, ServiceError
from consumer.ledger import Ledger
from schemas import Provenance, decode_dead_letter, decode_prediction
from tests.support.factories import FakeClock, finished, message, partition, scored
from tests.support.fake_kafka import FakeConsumer, FakeProducer

STAMP = Provenance("nano", "ab" * 32, 500, "packed", "sdpa", "fp32", "0.1.0")


class Bench(DeliveryObserver):
    """An AtLeastOnce with everything around it."""

    def __init__(self, room: int = 1000) -> None:
        self.clock, self.consumer, self.producer = FakeClock(), FakeConsumer(), FakeProducer(room)
        self.ledger = Ledger()
        self.ledger.assign([partition(0), partition(1)])
        self.done: list[int] = []
        self.outcomes: list[str] = []
        builder = OutgoingBuilder("predictions", "sequences.dlq", "group", STAMP)
        self.delivery = AtLeastOnce(
            self.consumer, self.producer, self.ledger, builder, self, commit_interval_s=0.1, clock=self.clock
        )

    def delivered(self, entry):
        self.done.append(entry.message.source.offset)

    def committed(self, outcome):
        self.outcomes.append(outcome)

    def finish(self, *offsets, number=0, epoch=1, good=True, size=5):
        for offset in offsets:
            self.ledger.receive(message(offset, number=number, epoch=epoch, value=b"x" * size))
            self.ledger.finish(
                finished(offset, number, epoch, scored(10, record_id=str(offset)) if good else None)
            )
            self.consumer.positions[number] = offset + 1

    @property
    def sent_ids(self):
        return [decode_prediction(m["value"]).id for m in self.producer.sent]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_nothing_is_committed_before_every_report_is_in(bench):
    bench.finish(1, 2, 3)
    bench.delivery.turn()
    assert bench.sent_ids == ["1", "2", "3"]
    bench.producer.acknowledge(2)
    bench.delivery.turn()
    assert (bench.consumer.commits, bench.done, bench.ledger.records) == ([], [], 3)
    bench.producer.acknowledge()
    bench.delivery.turn()
    assert bench.consumer.commits == [({0: 4}, True)]
    assert bench.done == [1, 2, 3]
    assert bench.ledger.records == 0


def test_commits_are_gathered_for_the_interval(bench):
    bench.producer.acknowledge_at_once = True
    for offset in range(5):
        bench.finish(offset)
        bench.delivery.turn()
        bench.delivery.turn()
    assert bench.consumer.commits == [({0: 1}, True)]
    bench.clock.advance(0.11)
    bench.delivery.turn()
    assert bench.consumer.commits[1:] == [({0: 5}, True)]


def test_only_one_unit_is_outstanding(bench):
    bench.finish(1)
    bench.delivery.turn()
    bench.finish(2)
    bench.delivery.turn()
    assert bench.sent_ids == ["1"]
    bench.producer.acknowledge()
    bench.delivery.turn()
    assert bench.sent_ids == ["1", "2"]


def test_a_full_client_queue_delays_but_keeps_the_order():
    bench = Bench(room=2)
    bench.finish(1, 2, 3, 4, 5)
    for _ in range(6):
        bench.delivery.turn()
        bench.producer.acknowledge()
    assert bench.sent_ids == ["1", "2", "3", "4", "5"]
    assert bench.consumer.commits == [({0: 6}, True)]


@pytest.mark.parametrize("code", [KafkaError._MSG_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS])
def test_an_outage_sends_again_and_dead_letters_nothing(bench, code):
    bench.finish(1, 2)
    bench.delivery.turn()
    bench.producer.fail(KafkaError(code))
    bench.producer.acknowledge()
    bench.delivery.turn()
    assert bench.consumer.commits == []
    for _ in range(3):
        bench.producer.acknowledge()
        bench.delivery.turn()
    assert bench.sent_ids == ["1", "2", "1"]
    assert bench.consumer.commits == [({0: 3}, True)]


def test_what_failed_goes_again_in_order_before_anything_behind_it():
    bench = Bench(room=3)
    bench.finish(1, 2, 3, 4, 5)
    bench.delivery.turn()
    assert bench.sent_ids == ["1", "2", "3"]
    bench.producer.acknowledge(1)
    bench.producer.fail(KafkaError(KafkaError._MSG_TIMED_OUT))
    bench.producer.fail(KafkaError(KafkaError._MSG_TIMED_OUT))
    for _ in range(12):
        bench.delivery.turn()
        bench.producer.acknowledge()
    assert bench.sent_ids == ["1", "2", "3", "2", "3", "4", "5"]
    assert bench.consumer.commits == [({0: 6}, True)]


def test_a_batch_too_large_for_the_broker_goes_one_by_one_and_nobody_is_blamed(bench):
    bench.finish(1, 2, 3)
    bench.delivery.turn()
    for _ in range(3):
        bench.producer.fail(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    for _ in range(10):
        bench.delivery.turn()
        bench.producer.acknowledge()
    assert bench.sent_ids == ["1", "2", "3", "1", "2", "3"]
    assert bench.consumer.commits == [({0: 4}, True)]


def test_a_prediction_too_large_becomes_a_dead_letter(bench):
    bench.finish(1)
    bench.delivery.turn()
    for _ in range(2):
        bench.producer.fail(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        bench.delivery.turn()
    bench.producer.acknowledge()
    bench.delivery.turn()
    assert [m["topic"] for m in bench.producer.sent] == ["predictions", "predictions", "sequences.dlq"]
    assert decode_dead_letter(bench.producer.sent[-1]["value"]).reason == "prediction_too_large"
    assert bench.consumer.commits == [({0: 2}, True)]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_dead_letter_too_large_for_the_broker_is_cut_down(bench, at_once):
    error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    bench.finish(1, good=False, size=1_000_000)
    if at_once:
        bench.producer.refuse_at_once = error
        bench.delivery.turn()
    else:
        for _ in range(2):  # with its neighbours, then alone
            bench.delivery.turn()
            bench.producer.fail(error)
    bench.delivery.turn()
    letter = decode_dead_letter(bench.producer.sent[-1]["value"])
    assert letter.truncated
    bench.producer.acknowledge()
    bench.delivery.turn()
    assert bench.consumer.commits == [({0: 2}, True)]


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "create the topic"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "grant"),
    ],
)
def test_a_refusal_for_good_ends_the_service_uncommitted(bench, code, cure):
    bench.finish(1)
    bench.delivery.turn()
    bench.producer.fail(KafkaError(code))
    with pytest.raises(ServiceError, match=f"predictions.*{cure}"):
        bench.delivery.turn()
    assert bench.consumer.commits == []
    assert bench.ledger.records == 1


def test_a_fatal_client_error_has_its_own_exit_code(bench):
    bench.finish(1)
    bench.delivery.turn()
    bench.producer.fail(KafkaError(KafkaError._FATAL, "fenced", True))
    with pytest.raises(KafkaFatal) as caught:
        bench.delivery.turn()
    assert caught.value.exit_code is ExitCode.KAFKA_FATAL


def test_a_partition_that_went_away_is_not_committed(bench):
    bench.finish(1)
    bench.finish(1, number=1)
    bench.delivery.turn()
    bench.delivery.forget([partition(0)])
    bench.ledger.drop([partition(0)])
    bench.producer.acknowledge()
    bench.delivery.turn()
    assert bench.consumer.commits == [({1: 2}, True)]


def test_a_partition_that_came_back_is_not_committed_for_its_old_epoch(bench):
    bench.finish(1)
    bench.delivery.turn()
    bench.delivery.forget([partition(0)])
    bench.ledger.drop([partition(0)])
    bench.ledger.assign([partition(0)])
    bench.producer.acknowledge()
    bench.delivery.turn()
    assert bench.consumer.commits == []


def test_a_failed_commit_is_repeated(bench):
    bench.producer.acknowledge_at_once = True
    bench.finish(1)
    bench.consumer.commit_error = KafkaError(KafkaError._TRANSPORT)
    bench.delivery.turn()
    bench.delivery.turn()
    assert bench.outcomes == ["error"]
    bench.clock.advance(0.11)
    bench.delivery.turn()
    assert bench.consumer.commits == [({0: 2}, True)]


def test_a_failed_commit_never_goes_back_behind_a_later_one(bench):
    bench.producer.acknowledge_at_once = True
    for offset in (1, 2):
        bench.finish(offset)
        bench.delivery.turn()
        bench.clock.advance(0.11)
        bench.delivery.turn()
    assert bench.consumer.commits == [({0: 2}, True), ({0: 3}, True)]
    late = KafkaError(KafkaError.REBALANCE_IN_PROGRESS)
    bench.delivery.on_commit(late, [TopicPartition("sequences", 0, 2)])
    bench.clock.advance(0.11)
    bench.delivery.turn()
    assert len(bench.consumer.commits) == 2
    assert bench.outcomes == ["rebalancing"]


def test_flush_delivers_all_of_it_and_commits_before_it_returns(bench):
    bench.producer.acknowledge_at_once = True
    bench.finish(*range(2500))
    assert bench.delivery.flush(Deadline.after(5))
    assert bench.sent_ids == [str(offset) for offset in range(2500)]
    assert bench.consumer.commits == [({0: 2500}, False)]


def test_flush_gives_up_at_its_deadline(bench):
    bench.finish(1)
    assert not bench.delivery.flush(Deadline.after(0, bench.clock))
    assert bench.consumer.commits == []


def test_a_commit_without_the_right_ends_the_service(bench):
    bench.finish(1)
    bench.consumer.commit_error = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
    bench.producer.acknowledge_at_once = True
    bench.delivery.turn()
    bench.delivery.turn()
    with pytest.raises(ServiceError, match="READ on the group"):
        bench.delivery.turn()
