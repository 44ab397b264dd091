"""At least once: nothing is committed before its answer is acknowledged, nothing is lost on the way."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, TopicPartition

from consumer.clock import Deadline
from consumer.delivery.guarantee import AtLeastOnceGuarantee
from consumer.errors import ExitCode, KafkaFatal, ServiceError
from tests.simulation.delivery_bench import PREDICTIONS, DeliveryBench
from tests.support.factories import partition


def new_bench(room: int = 1000) -> DeliveryBench:
    return DeliveryBench(AtLeastOnceGuarantee(0.1), room)


@pytest.fixture
def bench() -> DeliveryBench:
    return new_bench()


def test_nothing_is_committed_before_every_report_is_in(bench):
    bench.finish(1, 2, 3)
    bench.writing.late_polls = 4
    bench.turn(4)
    assert bench.ids == ["1", "2", "3"]
    assert (bench.commits, bench.done, bench.ledger.records) == ([], [], 3)
    bench.turn(2)
    assert bench.commits == [{0: 4}]
    assert bench.done == [1, 2, 3]
    assert bench.ledger.records == 0


def test_commits_are_gathered_for_the_interval(bench):
    for offset in range(5):
        bench.finish(offset)
        bench.turn(3)
    assert bench.commits == [{0: 1}]
    assert bench.ids == ["0", "1", "2", "3", "4"]
    bench.clock.advance(0.11)
    bench.turn()
    assert bench.commits[1:] == [{0: 5}]


def test_only_one_unit_is_outstanding(bench):
    bench.finish(1)
    bench.writing.late_polls = 3
    bench.turn(2)
    bench.finish(2)
    bench.turn()
    assert bench.ids == ["1"]
    bench.turn(3)
    assert bench.ids == ["1", "2"]


def test_a_full_client_queue_delays_but_keeps_the_order():
    bench = new_bench(room=2)
    bench.finish(1, 2, 3, 4, 5)
    bench.turn(6)
    assert bench.ids == ["1", "2", "3", "4", "5"]
    assert bench.commits == [{0: 6}]


@pytest.mark.parametrize("code", [KafkaError._MSG_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS])
def test_an_outage_sends_again_and_dead_letters_nothing(bench, code):
    bench.finish(1, 2)
    bench.reject(KafkaError(code))
    bench.turn(2)
    assert bench.commits == []
    bench.turn(4)
    assert bench.ids == ["1", "2"]
    assert bench.letters == []
    assert bench.commits == [{0: 3}]


def test_a_producer_that_gave_a_message_up_is_replaced_once_for_all_that_it_gave_up(bench):
    bench.finish(1, 2, 3)
    bench.reject(KafkaError(KafkaError._MSG_TIMED_OUT))
    bench.turn(8)
    assert len(bench.producers) == 2
    assert bench.ids == ["1", "2", "3"]
    assert bench.commits == [{0: 4}]


def test_a_producer_whose_message_a_broker_did_not_take_stays(bench):
    bench.finish(1, 2)
    bench.reject(KafkaError(KafkaError.NOT_ENOUGH_REPLICAS))
    bench.turn(6)
    assert len(bench.producers) == 1


def test_answers_that_reached_the_broker_unreported_come_twice_and_are_committed_once(bench):
    bench.finish(1, 2)
    bench.producer.lost_batches.append(True)
    bench.turn(6)
    assert bench.ids == ["1", "2", "1", "2"]
    assert bench.commits == [{0: 3}]
    assert bench.done == [1, 2]


def test_what_failed_goes_again_in_order_before_anything_behind_it():
    bench = new_bench(room=3)
    bench.finish(1, 2, 3, 4, 5)
    bench.reject(KafkaError(KafkaError._MSG_TIMED_OUT))
    bench.turn(12)
    assert bench.ids == ["1", "2", "3", "4", "5"]
    assert bench.commits == [{0: 6}]


def test_a_batch_too_large_for_the_broker_goes_one_by_one_and_no_record_is_blamed(bench):
    bench.finish(1, 2, 3)
    bench.reject(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    bench.turn(10)
    assert bench.ids == ["1", "2", "3"]
    assert bench.letters == []
    assert bench.commits == [{0: 4}]


def test_a_prediction_too_large_becomes_a_dead_letter_and_its_neighbours_do_not(bench):
    bench.kafka.max_message_bytes = 20_000
    bench.finish(1)
    bench.finish(2, name="x" * 20_000)
    bench.finish(3)
    bench.turn(10)
    assert bench.ids == ["1", "3"]
    assert [(letter.reason, letter.source_offset) for letter in bench.letters] == [
        ("prediction_too_large", 2)
    ]
    assert bench.commits == [{0: 4}]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_dead_letter_too_large_for_the_broker_is_cut_down(bench, at_once):
    bench.finish(1, good=False, size=1_000_000)
    if at_once:
        bench.fail("produce", KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    else:
        bench.kafka.max_message_bytes = 500_000
    bench.turn(6)
    (letter,) = bench.letters
    assert letter.truncated
    assert bench.commits == [{0: 2}]


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "create the topic"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "grant"),
    ],
)
def test_a_permanent_rejection_ends_the_service_uncommitted(bench, code, cure):
    bench.finish(1)
    bench.reject(KafkaError(code))
    with pytest.raises(ServiceError, match=f"{PREDICTIONS}.*{cure}"):
        bench.turn(2)
    with pytest.raises(ServiceError):
        bench.delivery.flush(Deadline.after(5, bench.clock))
    assert bench.kafka.group.committed == {}
    assert bench.ledger.records == 1


def test_a_fatal_client_error_has_its_own_exit_code(bench):
    bench.finish(1)
    bench.reject(KafkaError(KafkaError._FATAL, "fenced", True))
    with pytest.raises(KafkaFatal) as caught:
        bench.turn(2)
    assert caught.value.exit_code is ExitCode.KAFKA_FATAL


def test_a_partition_that_went_away_is_not_committed(bench):
    bench.finish(1)
    bench.finish(1, number=1)
    bench.turn()
    bench.lose(0)
    bench.turn(3)
    assert bench.commits == [{1: 2}]


def test_a_partition_that_came_back_is_not_committed_for_its_old_epoch(bench):
    bench.finish(1)
    bench.turn()
    bench.lose(0)
    bench.ledger.assign([partition(0)])
    bench.turn(3)
    assert bench.ids == ["1"]
    assert bench.commits == []


def test_a_failed_commit_is_repeated(bench):
    bench.finish(1)
    bench.fail("commit_async", KafkaError(KafkaError._TRANSPORT))
    bench.turn(3)
    assert bench.outcomes == ["error"]
    assert bench.commits == []
    bench.turn(3, 0.11)
    assert bench.outcomes == ["error", "ok"]
    assert bench.commits == [{0: 2}]


def test_a_failed_commit_never_goes_back_behind_a_later_one(bench):
    for offset in (1, 2):
        bench.finish(offset)
        bench.turn(3, 0.11)
    assert bench.commits == [{0: 2}, {0: 3}]
    outcomes = list(bench.outcomes)
    bench.reports(KafkaError(KafkaError.REBALANCE_IN_PROGRESS), [TopicPartition("sequences", 0, 2)])
    bench.turn(3, 0.11)
    assert bench.commits == [{0: 2}, {0: 3}]
    assert bench.outcomes == [*outcomes, "rebalancing"]


def test_a_report_that_comes_after_its_partition_went_away_is_not_repeated(bench):
    bench.finish(1)
    bench.fail("commit_async", KafkaError(KafkaError._TRANSPORT))
    bench.turn(2)
    bench.lose(0)
    bench.turn(3, 0.11)
    assert bench.outcomes == ["error"]
    assert bench.kafka.group.committed == {}


def test_flush_delivers_all_of_it_and_commits_before_it_returns(bench):
    bench.finish(*range(2500))
    assert bench.delivery.flush(Deadline.after(50, bench.clock))
    assert bench.ids == [str(offset) for offset in range(2500)]
    assert bench.kafka.group.committed == {partition(0): 2500}


def test_flush_gives_up_at_its_deadline(bench):
    bench.finish(1)
    assert not bench.delivery.flush(Deadline.after(0, bench.clock))
    assert bench.kafka.group.committed == {}


@pytest.mark.parametrize("call", ["commit_async", "commit"])
def test_a_commit_without_the_right_ends_the_service(bench, call):
    bench.finish(1)
    bench.fail(call, KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    if call == "commit":
        assert not bench.delivery.flush(Deadline.after(5, bench.clock))
    with pytest.raises(ServiceError, match="READ on the group"):
        bench.turn(4)


def test_what_a_producer_has_not_delivered_goes_again_by_the_one_that_takes_over(bench):
    bench.finish(1, 2)
    bench.producer.lost_batches.append(True)
    bench.delivery.turn()
    bench.delivery.renew()
    bench.finish(3)
    bench.turn(6)
    assert len(bench.producers) == 2
    assert bench.ids[-3:] == ["1", "2", "3"]
    assert bench.commits[-1] == {0: 4}
    assert (bench.ledger.records, bench.done) == (0, [1, 2, 3])
