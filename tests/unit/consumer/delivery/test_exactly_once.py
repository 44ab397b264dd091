"""Exactly once, against a transactional producer whose every error is the test's choice.

What the broker itself does with transactions is proven on a real one, in tests/kafka.
"""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import KafkaError, KafkaException

from consumer.clock import Deadline
from consumer.delivery.answers import OutgoingBuilder
from consumer.delivery.contract import DeliveryObserver
from consumer.delivery.exactly_once import ExactlyOnce
from consumer.delivery.transactions import Transactions
from consumer.errors import KafkaFatal, ServiceError
from consumer.ledger import Ledger
from schemas import Provenance, decode_dead_letter, decode_prediction
from tests.support.factories import FakeClock, finished, message, partition, scored
from tests.support.fake_kafka import FakeConsumer, FakeTransactions

STAMP = Provenance("nano", "ab" * 32, 500, "packed", "sdpa", "fp32", "0.1.0")


def abortable(code: int = KafkaError.ILLEGAL_GENERATION) -> KafkaError:
    return KafkaError(code, "abort", False, False, True)


def retriable() -> KafkaError:
    return KafkaError(KafkaError._TIMED_OUT, "later", False, True, False)


class Bench(DeliveryObserver):
    def __init__(self, room: int = 1000) -> None:
        self.clock, self.consumer, self.producer = FakeClock(), FakeConsumer(), FakeTransactions(room)
        self.ledger = Ledger()
        self.ledger.assign([partition(0), partition(1)])
        self.outcomes: list[str] = []
        self.done: list[int] = []
        builder = OutgoingBuilder("predictions", "sequences.dlq", "group", STAMP)
        self.made = 0
        transactions = Transactions(self.make, self, self.clock)
        self.delivery = ExactlyOnce(
            self.consumer, transactions, self.ledger, builder, self, commit_interval_s=0.1, clock=self.clock
        )
        transactions.registered = True

    def make(self):
        self.made += 1
        return self.producer

    def delivered(self, entry):
        self.done.append(entry.message.source.offset)

    def committed(self, outcome):
        self.outcomes.append(outcome)

    def finish(self, *offsets, number=0, good=True, size=5):
        for offset in offsets:
            self.ledger.receive(message(offset, number=number, value=b"x" * size))
            self.ledger.finish(
                finished(offset, number, 1, scored(10, record_id=str(offset)) if good else None)
            )
            self.consumer.positions[number] = offset + 1

    def turns(self, count=5, seconds=0.3):
        for _ in range(count):
            self.delivery.turn()
            self.clock.advance(seconds)

    @property
    def ids(self):
        return [decode_prediction(m["value"]).id for m in self.producer.committed]

    @property
    def offsets(self):
        return [offsets for offsets, _ in self.producer.offsets]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_answers_and_offsets_go_in_one_transaction(bench):
    bench.finish(1, 2, 3)
    bench.delivery.turn()
    assert bench.producer.calls == ["begin", "offsets", "commit"]
    assert bench.ids == ["1", "2", "3"]
    assert bench.offsets == [{0: 4}]
    assert (bench.ledger.records, bench.done, bench.outcomes) == (0, [1, 2, 3], ["ok"])


def test_a_dead_letter_goes_in_the_same_transaction_as_the_predictions_around_it(bench):
    bench.finish(1)
    bench.finish(2, good=False)
    bench.finish(3)
    bench.delivery.turn()
    assert bench.producer.calls == ["begin", "offsets", "commit"]
    assert [m["topic"] for m in bench.producer.committed] == ["predictions", "sequences.dlq", "predictions"]
    assert bench.offsets == [{0: 4}]


def test_without_results_there_is_no_transaction(bench):
    bench.ledger.receive(message(1))
    bench.turns()
    assert bench.producer.calls == []


def test_transactions_keep_the_interval(bench):
    bench.finish(1)
    bench.delivery.turn()
    bench.finish(2)
    bench.delivery.turn()
    assert bench.ids == ["1"]
    bench.clock.advance(0.11)
    bench.delivery.turn()
    assert bench.ids == ["1", "2"]


def test_more_than_one_transaction_holds_does_not_wait(bench):
    bench.finish(*range(2500))
    bench.delivery.turn()
    assert bench.ids == [str(offset) for offset in range(2500)]
    assert bench.offsets == [{0: 1000}, {0: 2000}, {0: 2500}]


def test_the_metadata_is_fetched_for_each_attempt(bench):
    bench.finish(1)
    bench.producer.errors = [("offsets", abortable())]
    bench.turns()
    assert [metadata for _, metadata in bench.producer.offsets] == [2], "never the one of the refused attempt"


@pytest.mark.parametrize("call", ["offsets", "commit"])
def test_an_abort_sends_the_same_again_and_nothing_twice(bench, call):
    bench.finish(1, 2)
    bench.producer.errors = [(call, abortable())]
    bench.turns()
    assert bench.producer.calls.count("abort") == 1
    assert bench.ids == ["1", "2"]
    assert bench.offsets == [{0: 3}]
    assert bench.outcomes == ["rebalancing", "ok"]


@pytest.mark.parametrize("call", ["offsets", "commit"])
def test_a_retriable_error_repeats_the_call_alone(bench, call):
    bench.finish(1)
    bench.producer.errors = [(call, retriable())] * 3
    bench.turns()
    assert bench.producer.calls.count("abort") == 0
    assert bench.producer.calls.count("begin") == 1
    assert bench.producer.calls.count(call) == 4
    assert bench.ids == ["1"]


def test_an_abort_that_is_slow_is_repeated_too(bench):
    bench.finish(1)
    bench.producer.errors = [("commit", abortable()), ("abort", retriable())]
    bench.turns()
    assert bench.producer.calls.count("abort") == 2
    assert bench.ids == ["1"]


@pytest.mark.parametrize("call", ["begin", "offsets", "commit", "abort"])
def test_a_fenced_producer_ends_the_process_uncommitted(bench, call):
    bench.finish(1)
    bench.producer.errors = [("commit", abortable())] if call == "abort" else []
    bench.producer.errors.append((call, KafkaError(KafkaError._FENCED, "fenced", True)))
    with pytest.raises(KafkaFatal, match="VIRNUCPRO_INSTANCE_ID"):
        bench.turns()
    assert bench.ledger.records == 1


def test_a_partition_that_goes_away_aborts_the_transaction_that_holds_it(bench):
    bench.finish(1)
    bench.finish(7, number=1)
    bench.producer.errors = [("offsets", retriable())]
    bench.delivery.turn()
    bench.delivery.forget([partition(0)])
    bench.ledger.drop([partition(0)])
    bench.turns()
    assert bench.producer.calls.count("abort") == 1
    assert bench.ids == ["7"]
    assert bench.offsets == [{1: 8}]


def test_a_commit_on_its_way_is_seen_through(bench):
    bench.finish(1)
    bench.producer.errors = [("commit", retriable())]
    bench.delivery.turn()
    bench.delivery.forget([partition(0)])
    bench.ledger.drop([partition(0)])
    bench.turns()
    assert bench.producer.calls.count("abort") == 0
    assert bench.offsets == [{0: 2}], "the broker may have it already: aborting is no longer possible"


def test_a_full_client_queue_delays_but_keeps_the_order():
    bench = Bench(room=2)
    bench.producer.acknowledge_at_once = False
    bench.finish(1, 2, 3, 4, 5)
    for _ in range(8):
        bench.delivery.turn()
        bench.producer.acknowledge()
    assert bench.ids == ["1", "2", "3", "4", "5"]
    assert bench.offsets == [{0: 6}]


def test_a_dead_letter_too_large_is_cut_down_in_the_next_transaction(bench):
    bench.finish(1, good=False, size=1_000_000)
    bench.producer.refuse_at_once = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    bench.turns()
    (only,) = bench.producer.committed
    assert decode_dead_letter(only["value"]).truncated
    assert bench.offsets == [{0: 2}]


def test_a_batch_too_large_is_sent_record_by_record_until_the_large_one_stands_alone(bench):
    bench.finish(1, 2, 3)
    bench.producer.acknowledge_at_once = False
    error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    bench.producer.errors = [("commit", retriable()), ("commit", abortable(KafkaError.MSG_SIZE_TOO_LARGE))]
    bench.delivery.turn()
    bench.producer.fail(error)
    bench.producer.acknowledge()
    bench.producer.acknowledge_at_once = True
    bench.turns(8)
    assert bench.ids == ["1", "2", "3"], "alone each of them fits"
    assert bench.offsets == [{0: 2}, {0: 3}, {0: 4}]
    bench.finish(4, 5)
    bench.turns(2)
    assert bench.offsets[-1] == {0: 6}, "together again"


def test_a_prediction_that_is_refused_for_good_ends_the_service(bench):
    bench.finish(1)
    bench.producer.acknowledge_at_once = False
    bench.producer.errors = [("commit", retriable())]
    bench.delivery.turn()
    bench.producer.fail(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(ServiceError, match=r"predictions.*create the topic"):
        bench.turns()
    assert bench.ledger.records == 1


def refuse_once(bench, error):
    """Have the broker refuse one message, by its report and then by an abort."""
    bench.producer.acknowledge_at_once = False
    bench.producer.errors = [("commit", retriable()), ("commit", abortable(error.code()))]
    bench.delivery.turn()
    bench.producer.fail(error)
    bench.producer.acknowledge()
    bench.turns(2)


def test_a_batch_that_is_too_long_for_the_topic_is_sent_record_by_record(bench):
    bench.finish(1, 2, 3)
    refuse_once(bench, KafkaError(KafkaError.RECORD_LIST_TOO_LARGE))
    bench.producer.acknowledge_at_once = True
    bench.turns(8)
    assert bench.ids == ["1", "2", "3"]
    assert bench.offsets == [{0: 2}, {0: 3}, {0: 4}]


def test_a_refusal_that_no_list_names_is_met_again_a_few_times_and_then_ends_the_service(bench):
    bench.finish(1)
    policy = KafkaError(KafkaError.POLICY_VIOLATION)
    for _ in range(19):
        refuse_once(bench, policy)
    bench.producer.acknowledge_at_once = True
    bench.turns()
    assert bench.ids == ["1"], "it passed"
    bench.finish(2)
    for _ in range(20):
        refuse_once(bench, policy)
    with pytest.raises(ServiceError, match=r"refuses a message for topic predictions"):
        bench.turns(1)
    assert bench.ids == ["1"]
    assert bench.ledger.records == 1


def test_messages_that_went_with_their_transaction_are_no_refusals(bench):
    bench.finish(1)
    for _ in range(30):
        refuse_once(bench, KafkaError(KafkaError._PURGE_QUEUE))
    bench.producer.acknowledge_at_once = True
    bench.turns()
    assert bench.ids == ["1"]


def test_flush_commits_everything_before_it_returns(bench):
    bench.finish(*range(1500))
    bench.producer.errors = [("offsets", retriable()), ("commit", abortable())]
    assert bench.delivery.flush(Deadline.after(5))
    assert bench.ids == [str(offset) for offset in range(1500)]


def test_flush_gives_up_at_its_deadline_and_close_leaves_nothing_open(bench):
    bench.finish(1)
    assert not bench.delivery.flush(Deadline.after(0))
    assert bench.producer.calls == ["begin"]
    bench.delivery.close(Deadline.after(1))
    assert bench.producer.calls[-1] == "abort"
    assert bench.producer.committed == []


def test_opening_waits_for_the_coordinator_but_not_for_ever(bench):
    bench.producer.errors = [("init", retriable())]
    bench.delivery.open(Deadline.after(5))
    assert bench.producer.calls == ["init", "init"]
    bench.producer.errors = [("init", retriable())] * 3
    with pytest.raises(ServiceError, match="at_least_once"):
        bench.delivery.open(Deadline.after(0))


def test_an_answer_whose_timestamp_is_refused_goes_without_it(bench):
    bench.finish(1)
    bench.producer.refuse_at_once = KafkaError(KafkaError.INVALID_TIMESTAMP)
    bench.turns()
    (only,) = bench.producer.committed
    assert "timestamp" not in only
    assert bench.offsets == [{0: 2}]


@pytest.mark.parametrize(
    ("call", "code", "right"),
    [
        ("offsets", KafkaError.GROUP_AUTHORIZATION_FAILED, "VIRNUCPRO_GROUP_ID"),
        ("commit", KafkaError.TOPIC_AUTHORIZATION_FAILED, "WRITE"),
        ("init", KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "transactional ids"),
    ],
)
def test_a_right_that_is_missing_is_named_and_never_waited_for(bench, call, code, right):
    bench.producer.errors = [(call, abortable(code))]
    bench.finish(1)
    steps = bench.turns if call != "init" else lambda: bench.delivery.open(Deadline.after(1))
    with pytest.raises(ServiceError, match=right):
        steps()
    assert bench.ledger.records == 1


class HangingProducer(FakeTransactions):
    """`send_offsets_to_transaction` does not come back before the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go, self.came_back = threading.Event(), threading.Event()

    def send_offsets_to_transaction(self, offsets, metadata, timeout) -> None:
        assert self.let_go.wait(30)
        self.came_back.set()
        raise KafkaException(KafkaError(KafkaError._FENCED, "fenced", True, False, False))


@pytest.fixture
def hanging():
    """A bench whose first producer hangs, and whose second is sound."""
    bench = Bench()
    first, second = HangingProducer(), FakeTransactions()
    producers = iter([first, second])
    transactions = Transactions(lambda: next(producers), bench, bench.clock)
    transactions.registered = True
    bench.delivery.transactions = transactions
    bench.first, bench.producer = first, second
    yield bench
    first.let_go.set()
    assert first.came_back.wait(10)


def test_a_call_that_hangs_is_left_and_a_new_producer_sends_the_results_again(hanging):
    hanging.finish(1, 2, 3)
    hanging.delivery.turn()
    hanging.clock.advance(6)
    hanging.turns()
    assert hanging.first.calls == ["begin"], "the old one is left alone: no abort beside the call that hangs"
    assert hanging.first.committed == []
    assert hanging.producer.calls == ["init", "begin", "offsets", "commit"]
    assert hanging.ids == ["1", "2", "3"]
    assert hanging.offsets == [{0: 4}]
    assert hanging.outcomes == ["hung", "ok"]
    hanging.first.let_go.set()
    hanging.finish(4)
    hanging.turns()
    assert hanging.ids == ["1", "2", "3", "4"], "what the old one hears in the end touches nothing"


def test_while_a_call_hangs_each_turn_is_short_and_the_partition_may_go(hanging):
    hanging.finish(1)
    begun = time.monotonic()
    hanging.delivery.turn()
    assert time.monotonic() - begun < 2, "the loop goes on polling"
    hanging.delivery.forget([partition(0)])
    hanging.ledger.drop([partition(0)])
    hanging.finish(7, number=1)
    hanging.clock.advance(6)
    hanging.turns(8)
    assert hanging.ids == ["7"]
    assert hanging.offsets == [{1: 8}]


def test_calls_that_hang_again_and_again_end_the_process(bench, monkeypatch):
    """Each leaves a producer and a thread behind: there is an end to that."""
    monkeypatch.setattr("consumer.delivery.transactions.CALL_S", 0.02)
    hanging = [HangingProducer() for _ in range(20)]
    producers = iter(hanging)
    bench.delivery.transactions = Transactions(lambda: next(producers), bench, bench.clock)
    bench.delivery.transactions.registered = True
    bench.finish(1)
    try:
        with pytest.raises(KafkaFatal, match="again and again"):
            bench.turns(40, 6.0)
        assert bench.outcomes == ["hung"] * 5
    finally:
        for producer in hanging:
            producer.let_go.set()


def test_flush_waits_for_the_new_producer_too(hanging):
    hanging.finish(1)
    hanging.delivery.turn()
    hanging.clock.advance(6)
    assert hanging.delivery.flush(Deadline.after(10))
    assert hanging.ids == ["1"]
