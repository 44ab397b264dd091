"""What each guarantee does about each row of the table of Kafka errors.

The rows come as delivery reports, as errors of a transactional call, and as errors of a commit.
"""

from __future__ import annotations

from typing import Literal

import pytest
from confluent_kafka import KafkaError

from consumer.delivery.guarantee import AtLeastOnceGuarantee, ExactlyOnceGuarantee
from consumer.errors import KafkaFatal, ServiceError
from consumer.kafka.error_table import ROWS, Kind, Row
from tests.simulation.delivery_bench import LETTERS, PREDICTIONS, DeliveryBench

Ending = Literal["delivered", "retried", "dead letter", "permanent", "fatal"]

NO_ROW = KafkaError.POLICY_VIOLATION
OVER = {Kind.FATAL, Kind.FENCED, Kind.NO_TRANSACTION}
PERMANENT = {Kind.UNKNOWN_TOPIC, Kind.NOT_IN_METADATA, Kind.UNAUTHORIZED}


def name(row: Row) -> str:
    return KafkaError(row.code).name()


def expected_at_least_once(kind: Kind) -> Ending:
    match kind:
        case Kind.RETRIABLE | Kind.INVALID_RECORD | Kind.UNKNOWN_PARTITION:
            return "retried"
        case Kind.TOO_LARGE:
            return "dead letter"
        case Kind.FATAL:
            return "fatal"
    return "permanent"


def at_least_once() -> DeliveryBench:
    return DeliveryBench(AtLeastOnceGuarantee(0.1))


def exactly_once() -> DeliveryBench:
    return DeliveryBench(ExactlyOnceGuarantee("group.w0", 0.1, 30.0))


def reject(bench: DeliveryBench, code: int, at_once: bool) -> None:
    """Have the client refuse the message when it is produced, or the broker by its report."""
    if at_once:
        bench.fail("produce", KafkaError(code))
    else:
        bench.reject(KafkaError(code))


def check_answer(bench: DeliveryBench, row: Row, blamed: bool) -> None:
    """One answer came, changed as its rejection asks where that was known to be about this very message."""
    assert len(bench.ids) + len(bench.letters) == 1
    (record,) = (record for topic in (PREDICTIONS, LETTERS) for _, _, record in bench.kafka.records(topic))
    assert len(bench.letters) == (blamed and row.kind is Kind.TOO_LARGE)
    assert (record.timestamp_ms is None) == (blamed and row.kind is Kind.INVALID_RECORD)
    assert bench.commits == [{0: 2}]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_message_rejected_at_least_once(row, at_once):
    bench = at_least_once()
    bench.finish(1)
    reject(bench, row.code, at_once)
    ending = expected_at_least_once(row.kind)
    if ending in ("permanent", "fatal"):
        with pytest.raises(KafkaFatal if ending == "fatal" else ServiceError) as caught:
            bench.turn(3)
        assert row.cure in str(caught.value)
        assert bench.ledger.records == 1
        assert (bench.done, bench.commits) == ([], []), "neither counted nor committed"
    else:
        bench.turn(6)
        # The report is about a batch: the message is sent alone, and then accepted.
        check_answer(bench, row, blamed=at_once)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_message_rejected_in_a_transaction(row, at_once):
    """What is permanent ends the service; all else is aborted, and sent again."""
    bench = exactly_once()
    bench.finish(1)
    reject(bench, row.code, at_once)
    ends = row.kind in PERMANENT | {Kind.FATAL} or (not at_once and row.kind in OVER)
    if ends:
        with pytest.raises(KafkaFatal if row.kind in OVER else ServiceError):
            bench.turn(5, 0.3)
        assert bench.ledger.records == 1
        assert (bench.done, bench.commits) == ([], [])
        return
    bench.turn(5, 0.3)
    assert bench.calls.count("abort") == 1
    # A message that is alone in its transaction is blamed at once.
    check_answer(bench, row, blamed=True)


@pytest.mark.parametrize("row", ROWS, ids=name)
@pytest.mark.parametrize("flag", ["retriable", "abortable", "none"])
def test_an_error_of_a_transactional_call(row, flag):
    """Rights and fencing end the service whatever the flags; for all else librdkafka's flags decide."""
    bench = exactly_once()
    bench.finish(1)
    if flag == "abortable" and row.kind not in OVER | {Kind.UNAUTHORIZED}:
        bench.abort("commit", row.code)
    else:
        flags = (False, flag == "retriable", flag == "abortable")
        bench.fail("commit", KafkaError(row.code, "text", *flags))
    if row.kind in OVER:
        with pytest.raises(KafkaFatal, match="VIRNUCPRO_INSTANCE_ID"):
            bench.turn(5, 0.3)
    elif row.kind is Kind.UNAUTHORIZED or flag == "none":
        with pytest.raises(ServiceError) as caught:
            bench.turn(5, 0.3)
        assert row.cure in str(caught.value)
    else:
        bench.turn(5, 0.3)
        assert bench.ids == ["1"]
        assert bench.calls.count("abort") == (flag == "abortable")
        if flag == "abortable":
            assert bench.outcomes == ["rebalancing" if row.kind is Kind.REBALANCING else "error", "ok"]


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_an_error_of_a_commit(row):
    bench = at_least_once()
    bench.finish(1)
    bench.fail("commit_async", KafkaError(row.code))
    bench.turn(2)
    if row.kind is Kind.UNAUTHORIZED:
        with pytest.raises(ServiceError, match="grant it"):
            bench.turn(1, 0.11)
        assert bench.commits == []
        return
    bench.turn()
    assert bench.outcomes == ["rebalancing" if row.kind is Kind.REBALANCING else "error"]
    bench.turn(3, 0.11)
    assert bench.commits == [{0: 2}]


def test_an_unknown_rejection_is_permanent_at_least_once_and_tried_again_in_transactions():
    first, second = at_least_once(), exactly_once()
    for bench in (first, second):
        bench.finish(1)
        bench.reject(KafkaError(NO_ROW))
    with pytest.raises(ServiceError, match="see the broker's log"):
        first.turn(2)
    second.turn(5, 0.3)
    assert second.ids == ["1"]


def test_an_answer_that_was_made_smaller_stays_so_when_its_transaction_is_aborted():
    bench = exactly_once()
    bench.finish(1)
    bench.fail("produce", KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    bench.abort("commit")
    bench.turn(5, 0.3)
    assert bench.calls.count("abort") == 2
    assert bench.ids == []
    assert [letter.reason for letter in bench.letters] == ["prediction_too_large"]


def test_what_is_remembered_of_rejections_goes_with_the_records():
    bench = exactly_once()
    for offset in range(5):
        bench.finish(offset)
        bench.fail("produce", KafkaError(KafkaError.INVALID_TIMESTAMP))
        bench.turn(4, 0.3)
    bench.finish(9)
    bench.turn(4, 0.3)
    stamps = [record.timestamp_ms for _, _, record in bench.kafka.records(PREDICTIONS)]
    assert stamps == [None] * 5 + [1_700_000_000_000]
    assert bench.delivery._amended == {}


@pytest.mark.parametrize("bench", [at_least_once, exactly_once])
def test_a_client_that_does_not_know_a_partition_is_asked_to_look(bench):
    """Partitions are added while the service runs: the consumer, or the broker that assigns, knows them first."""
    bench = bench()
    bench.finish(1)
    bench.fail("produce", KafkaError(KafkaError._UNKNOWN_PARTITION))
    bench.fail("list_topics", KafkaError(KafkaError._TIMED_OUT))
    bench.fail("produce", KafkaError(KafkaError._UNKNOWN_PARTITION))
    bench.turn(8, 0.3)
    assert bench.writing.calls.count("list_topics") == 2
    assert bench.ids == ["1"]
