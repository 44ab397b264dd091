"""Exactly once, over Kafka in memory, whose every error is the test's choice.

What the broker itself does with transactions is proven on a real one, in tests/kafka.
"""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.clock import Deadline
from consumer.delivery.guarantee import ExactlyOnceGuarantee
from consumer.errors import KafkaFatal, ServiceError
from tests.simulation.delivery_bench import LETTERS, PREDICTIONS, DeliveryBench
from tests.simulation.memory_clients import MemoryProducer, retriable
from tests.simulation.memory_kafka import fenced
from tests.support.factories import message, partition


def new_bench(interval_s: float = 0.1, room: int = 1000, **options) -> DeliveryBench:
    return DeliveryBench(ExactlyOnceGuarantee("group.w0", interval_s, 30.0), room, **options)


def turns(bench: DeliveryBench, count: int = 5, seconds: float = 0.3) -> None:
    bench.turn(count, seconds)


@pytest.fixture
def bench() -> DeliveryBench:
    return new_bench()


def test_answers_and_offsets_go_in_one_transaction(bench):
    bench.finish(1, 2, 3)
    bench.delivery.turn()
    assert bench.calls == ["begin", "offsets", "commit"]
    assert bench.ids == ["1", "2", "3"]
    assert bench.commits == [{0: 4}]
    assert (bench.ledger.records, bench.done, bench.outcomes) == (0, [1, 2, 3], ["ok"])
    assert "commit" not in bench.reading.calls, "the consumer itself commits nothing"
    records = bench.kafka.records(PREDICTIONS)
    (transaction,) = {id(record.transaction): record.transaction for _, _, record in records}.values()
    assert transaction.offsets == {partition(0): 4}


def test_a_dead_letter_goes_in_the_same_transaction_as_the_predictions_around_it(bench):
    bench.finish(1)
    bench.finish(2, good=False)
    bench.finish(3)
    bench.delivery.turn()
    assert bench.calls == ["begin", "offsets", "commit"]
    assert bench.ids == ["1", "3"]
    assert [letter.source_offset for letter in bench.letters] == [2]
    records = [*bench.kafka.records(PREDICTIONS), *bench.kafka.records(LETTERS)]
    assert len({id(record.transaction) for _, _, record in records}) == 1
    assert bench.commits == [{0: 4}]


def test_without_results_there_is_no_transaction(bench):
    bench.ledger.receive(message(1))
    turns(bench)
    assert bench.calls == []


def test_transactions_keep_the_interval_while_more_is_in_flight(bench):
    bench.finish(1)
    bench.delivery.turn()
    bench.finish(2)
    bench.ledger.receive(message(3))
    for _ in range(3):
        bench.clock.advance(0.025)
        bench.delivery.turn()
        assert bench.ids == ["1"]
    bench.clock.advance(0.025)
    bench.delivery.turn()
    assert bench.ids == ["1", "2"]


def test_a_transaction_comes_early_when_all_that_was_read_is_finished_and_no_more_than_fifty_a_second(bench):
    begun = []
    for offset in range(1, 200):
        bench.finish(offset)
        before = len(bench.ids)
        bench.delivery.turn()
        if len(bench.ids) > before:
            begun.append(bench.clock())
        bench.clock.advance(0.005)
    gaps = [later - sooner for sooner, later in itertools.pairwise(begun)]
    assert min(gaps) >= 0.02 - 1e-9
    assert max(gaps) <= 0.03


def test_after_an_abort_no_transaction_comes_early(bench):
    bench.finish(1)
    bench.producer.fail_transaction(KafkaError.ILLEGAL_GENERATION)
    bench.strike("offsets", lambda: bench.producer.fail_transaction(KafkaError.ILLEGAL_GENERATION))
    bench.delivery.turn()
    bench.delivery.turn()
    aborted = bench.calls.count("abort")
    assert aborted == 1
    bench.clock.advance(0.19)
    bench.delivery.turn()
    assert bench.ids == []
    bench.clock.advance(0.02)
    turns(bench)
    assert bench.ids == ["1"]


def test_more_than_one_transaction_holds_does_not_wait():
    bench = new_bench(interval_s=3600.0)
    bench.finish(*range(2500))
    bench.turn(3)
    assert bench.ids == [str(offset) for offset in range(2500)]
    assert bench.commits == [{0: 1000}, {0: 2000}, {0: 2500}]


def test_the_metadata_is_fetched_for_each_attempt(bench):
    """The broker refuses a member of an old generation."""

    def rebalance() -> None:
        bench.kafka.group.move([])
        bench.consumer.heartbeat()
        bench.producer.fail_transaction(KafkaError.ILLEGAL_GENERATION)

    generation = bench.kafka.group.generation
    bench.finish(1)
    bench.strike("offsets", rebalance)
    turns(bench)
    assert bench.kafka.group.generation > generation
    assert bench.ids == ["1"]
    assert bench.outcomes == ["rebalancing", "ok"]


@pytest.mark.parametrize("call", ["offsets", "commit"])
def test_an_abort_sends_the_same_again_and_nothing_twice(bench, call):
    bench.finish(1, 2)
    bench.abort(call)
    turns(bench)
    assert bench.calls.count("abort") == 1
    assert bench.ids == ["1", "2"]
    assert bench.commits == [{0: 3}]
    assert bench.outcomes == ["rebalancing", "ok"]


@pytest.mark.parametrize("call", ["offsets", "commit"])
def test_a_retriable_error_repeats_the_call_alone(bench, call):
    bench.finish(1)
    bench.fail(call, retriable(), times=3)
    turns(bench)
    assert bench.calls.count("abort") == 0
    assert bench.calls.count("begin") == 1
    assert bench.calls.count(call) == 4
    assert bench.ids == ["1"]


def test_an_abort_that_is_slow_is_repeated_too(bench):
    bench.finish(1)
    bench.abort("commit")
    bench.fail("abort", retriable())
    turns(bench)
    assert bench.calls.count("abort") == 2
    assert bench.ids == ["1"]


@pytest.mark.parametrize("call", ["begin", "offsets", "commit", "abort"])
def test_a_fenced_producer_ends_the_process_uncommitted(bench, call):
    bench.finish(1)
    if call == "abort":
        bench.abort("commit")
    bench.fail(call, fenced())
    with pytest.raises(KafkaFatal, match="VIRNUCPRO_INSTANCE_ID"):
        turns(bench)
    assert bench.ledger.records == 1
    assert bench.commits == []


def test_a_partition_that_goes_away_aborts_the_transaction_that_holds_it(bench):
    bench.finish(1)
    bench.finish(7, number=1)
    bench.fail("offsets", retriable())
    bench.delivery.turn()
    bench.lose(0)
    turns(bench)
    assert bench.calls.count("abort") == 1
    assert bench.ids == ["7"]
    assert bench.commits == [{1: 8}]


def test_a_commit_in_flight_is_not_aborted(bench):
    bench.finish(1)
    bench.fail("commit", retriable())
    bench.delivery.turn()
    bench.lose(0)
    turns(bench)
    assert bench.calls.count("abort") == 0
    assert bench.commits == [{0: 2}], "the broker may have it already: aborting is no longer possible"


def test_a_full_client_queue_delays_but_keeps_the_order():
    bench = new_bench(room=2)
    bench.finish(1, 2, 3, 4, 5)
    turns(bench, 8)
    assert bench.ids == ["1", "2", "3", "4", "5"]
    assert bench.commits == [{0: 6}]
    assert bench.calls.count("begin") == 1


@pytest.mark.parametrize("at_once", [True, False])
def test_a_dead_letter_too_large_is_cut_down_in_the_next_transaction(bench, at_once):
    bench.finish(1, good=False, size=1_000_000)
    if at_once:
        bench.fail("produce", KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    else:
        bench.kafka.max_message_bytes = 500_000
    turns(bench)
    (letter,) = bench.letters
    assert letter.truncated
    assert bench.commits == [{0: 2}]


def test_a_prediction_too_large_becomes_a_dead_letter_and_its_neighbours_do_not(bench):
    bench.kafka.max_message_bytes = 20_000
    bench.finish(1)
    bench.finish(2, name="x" * 20_000)
    bench.finish(3)
    turns(bench, 10)
    assert bench.ids == ["1", "3"]
    assert [(letter.reason, letter.source_offset) for letter in bench.letters] == [
        ("prediction_too_large", 2)
    ]
    assert bench.commits[-1] == {0: 4}


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE])
def test_a_batch_too_large_is_sent_record_by_record(bench, code):
    bench.finish(1, 2, 3)
    bench.reject(KafkaError(code))
    turns(bench, 8)
    assert bench.ids == ["1", "2", "3"], "alone each of them fits"
    assert bench.commits == [{0: 2}, {0: 3}, {0: 4}]
    bench.finish(4, 5)
    turns(bench, 2)
    assert bench.commits[3:] == [{0: 6}], "together again"


def test_a_permanent_rejection_ends_the_service(bench):
    bench.finish(1)
    bench.reject(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(ServiceError, match=r"predictions.*create the topic"):
        turns(bench)
    assert bench.ledger.records == 1


def reject_once(bench: DeliveryBench, error: KafkaError) -> None:
    """Have the broker refuse a message, by its report and then by an abort."""
    bench.reject(error)
    turns(bench, 2)


def test_an_unclassified_rejection_is_retried_a_few_times_and_then_ends_the_service(bench):
    bench.finish(1)
    policy = KafkaError(KafkaError.POLICY_VIOLATION)
    for _ in range(19):
        reject_once(bench, policy)
    turns(bench)
    assert bench.ids == ["1"], "it passed"
    bench.finish(2)
    for _ in range(20):
        reject_once(bench, policy)
    with pytest.raises(ServiceError, match=r"refuses a message for topic predictions"):
        turns(bench, 1)
    assert bench.ids == ["1"]
    assert bench.ledger.records == 1


def test_messages_that_were_dropped_with_their_transaction_do_not_count_as_rejections(bench):
    bench.finish(1)
    for _ in range(30):
        reject_once(bench, KafkaError(KafkaError._PURGE_QUEUE))
    turns(bench)
    assert bench.ids == ["1"]


def test_flush_commits_everything_before_it_returns(bench):
    bench.finish(*range(1500))
    bench.fail("offsets", retriable())
    bench.abort("commit")
    assert bench.delivery.flush(Deadline.after(60, bench.clock))
    assert bench.ids == [str(offset) for offset in range(1500)]
    assert bench.kafka.group.committed == {partition(0): 1500}


def test_flush_gives_up_at_its_deadline_and_the_end_leaves_nothing_open(bench):
    bench.finish(1)
    assert not bench.delivery.flush(Deadline.after(0, bench.clock))
    assert bench.calls == ["begin"]
    bench.stack.close()
    assert bench.calls[-1] == "abort"
    assert bench.ids == []
    assert bench.kafka.open_transactions == []


UNAUTHORIZED = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "no right", False, False, True)
NO_TRANSACTION = KafkaError(KafkaError.INVALID_TXN_STATE, "invalid state", True, False, False)


def test_what_the_broker_has_refused_altogether_is_aborted_by_another_producer(bench):
    bench.finish(1)
    bench.abort("offsets")
    bench.fail("abort", NO_TRANSACTION)
    turns(bench)
    assert bench.calls == ["begin", "offsets", "abort", "init", "begin", "offsets", "commit"]
    assert len(bench.producers) == 2
    assert bench.ids == ["1"]


def test_a_commit_of_a_transaction_that_the_broker_does_not_know_is_fatal(bench):
    """An earlier attempt may have committed it: only the committed offsets tell."""
    bench.finish(1)
    bench.fail("commit", NO_TRANSACTION)
    with pytest.raises(KafkaFatal):
        turns(bench)
    assert bench.calls.count("init") == 0


@pytest.mark.parametrize("error", [NO_TRANSACTION, fenced()], ids=KafkaError.name)
def test_an_abort_that_fails_at_the_end_does_not_hide_why_it_ends(bench, error):
    bench.finish(1)
    bench.fail("offsets", UNAUTHORIZED)
    bench.fail("abort", error)
    with pytest.raises(ServiceError, match="grant it READ") as caught, bench.stack:
        turns(bench)
    assert not isinstance(caught.value, KafkaFatal)
    assert bench.calls[-1] == "abort"


def test_an_answer_whose_timestamp_is_refused_goes_without_it(bench):
    bench.finish(0)
    turns(bench)
    bench.finish(1)
    bench.fail("produce", KafkaError(KafkaError.INVALID_TIMESTAMP))
    turns(bench)
    stamps = [record.timestamp_ms for _, _, record in bench.kafka.records(PREDICTIONS)]
    assert stamps == [1_700_000_000_000, None]
    assert bench.commits[-1] == {0: 2}


@pytest.mark.parametrize(
    ("call", "code", "right"),
    [
        ("offsets", KafkaError.GROUP_AUTHORIZATION_FAILED, "VIRNUCPRO_GROUP_ID"),
        ("commit", KafkaError.TOPIC_AUTHORIZATION_FAILED, "WRITE"),
        ("begin", KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "transactional ids"),
    ],
)
def test_a_right_that_is_missing_is_named_and_never_waited_for(bench, call, code, right):
    bench.fail(call, KafkaError(code, "abort", False, False, True))
    bench.finish(1)
    with pytest.raises(ServiceError, match=right):
        turns(bench)
    assert bench.ledger.records == 1


class HangingProducer(MemoryProducer):
    """`send_offsets_to_transaction` does not return before the test lets it."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.let_go, self.came_back = threading.Event(), threading.Event()

    def send_offsets_to_transaction(self, offsets, who, timeout) -> None:
        assert self.let_go.wait(30)
        self.came_back.set()
        raise KafkaException(fenced())


@pytest.fixture
def hanging():
    """A bench whose first producer hangs, and whose second does not."""
    kinds = iter([HangingProducer, MemoryProducer])
    bench = new_bench(new_producer=lambda *args: next(kinds)(*args))
    (first,) = bench.producers
    yield bench
    first.let_go.set()
    assert first.came_back.wait(10)


def test_a_call_that_hangs_is_left_and_a_new_producer_sends_the_results_again(hanging):
    hanging.finish(1, 2, 3)
    hanging.delivery.turn()
    assert hanging.calls == ["begin"]
    hanging.clock.advance(6)
    turns(hanging)
    assert hanging.calls == ["begin", "init", "begin", "offsets", "commit"], (
        "no abort beside the call that hangs"
    )
    assert hanging.ids == ["1", "2", "3"]
    assert hanging.commits == [{0: 4}]
    assert hanging.outcomes == ["hung", "ok"]
    hanging.producers[0].let_go.set()
    hanging.finish(4)
    turns(hanging)
    assert hanging.ids == ["1", "2", "3", "4"], "what the old one returns in the end changes nothing"


def test_while_a_call_hangs_each_turn_is_short_and_the_partition_may_go(hanging):
    hanging.finish(1)
    begun = time.monotonic()
    hanging.delivery.turn()
    assert time.monotonic() - begun < 2, "the loop goes on polling"
    hanging.lose(0)
    hanging.finish(7, number=1)
    hanging.clock.advance(6)
    turns(hanging, 8)
    assert hanging.ids == ["7"]
    assert hanging.commits == [{1: 8}]


def test_calls_that_hang_again_and_again_end_the_process(monkeypatch):
    """Each leaves a producer and a thread behind: there is an end to that."""
    monkeypatch.setattr("consumer.delivery.transactions.CALL_S", 0.02)
    bench = new_bench(new_producer=HangingProducer)
    bench.finish(1)
    try:
        with pytest.raises(KafkaFatal, match="again and again"):
            turns(bench, 40, 6.0)
        assert bench.outcomes == ["hung"] * 5
    finally:
        for producer in bench.producers:
            producer.let_go.set()


def test_flush_waits_for_the_new_producer_too(hanging):
    hanging.finish(1)
    hanging.delivery.turn()
    hanging.clock.advance(6)
    assert hanging.delivery.flush(Deadline.after(10, hanging.clock))
    assert hanging.ids == ["1"]


def test_another_producer_takes_over_before_the_next_transaction(bench):
    bench.finish(1)
    turns(bench)
    bench.delivery.renew()
    assert len(bench.producers) == 1, "not before there is something to send"
    bench.finish(2)
    turns(bench)
    assert len(bench.producers) == 2
    assert bench.calls == ["begin", "offsets", "commit", "init", "begin", "offsets", "commit"]
    assert bench.ids == ["1", "2"]
    assert bench.commits == [{0: 2}, {0: 3}]


def test_an_open_transaction_is_aborted_and_its_answers_go_by_the_new_producer(bench):
    bench.finish(1, 2)
    bench.fail("offsets", retriable())
    bench.delivery.turn()
    bench.delivery.renew()
    turns(bench)
    assert bench.calls == ["begin", "offsets", "abort", "init", "begin", "offsets", "commit"]
    assert bench.ids == ["1", "2"]
    assert len(bench.producers) == 2


def test_a_commit_in_flight_is_left_to_the_producer_that_makes_it(bench):
    bench.finish(1, 2)
    bench.fail("commit", retriable())
    bench.delivery.turn()
    bench.delivery.renew()
    turns(bench)
    assert "abort" not in bench.calls
    assert bench.ids == ["1", "2"]
    bench.finish(3)
    turns(bench)
    assert bench.ids == ["1", "2", "3"]
    assert len(bench.producers) == 2
