"""Kafka in memory does what a real broker and its client do: each scenario runs on both, by the same code.

Without a real broker its half is skipped, and in CI that is a failure.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.simulation.clusters import (
    CALL_S,
    PARTITIONS,
    Cluster,
    MemoryCluster,
    Reader,
    RealCluster,
    quiet,
    until,
    write,
)

ALL = set(range(PARTITIONS))


@pytest.fixture(params=["memory", "real"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = MemoryCluster() if request.param == "memory" else RealCluster(request.getfixturevalue("broker"))
    yield made
    made.close()


@pytest.fixture
def producer(cluster):
    """A transactional producer that is ready to begin."""
    made = cluster.producer("one")
    made.init_transactions(CALL_S)
    return made


def joined(cluster: Cluster) -> Reader:
    """A reader that owns the whole topic."""
    reader = Reader(cluster)
    until(cluster, lambda: reader.owned == ALL, "the only member has everything", reader)
    return reader


def share_with(cluster: Cluster, first: Reader) -> Reader:
    """A second reader, when each owns one partition and both have heard of the present generation."""
    second = Reader(cluster)
    until(cluster, lambda: len(first.owned) == len(second.owned) == 1, "one partition each", first, second)
    quiet(cluster, first, second)
    return second


def failure(call) -> KafkaError:
    with pytest.raises(KafkaException) as caught:
        call()
    return caught.value.args[0]


def publish(cluster: Cluster, producer, *values: bytes, number: int = 0) -> None:
    producer.begin_transaction()
    write(cluster, producer, *values, number=number)
    producer.commit_transaction(CALL_S)


def test_a_later_producer_of_the_same_transactional_id_fences_the_earlier(cluster, producer):
    reader = joined(cluster)
    producer.begin_transaction()
    write(cluster, producer, b"of the earlier")
    later = cluster.producer("one")
    later.init_transactions(CALL_S)
    assert failure(lambda: producer.commit_transaction(CALL_S)).fatal()
    publish(cluster, later, b"of the later")
    until(cluster, lambda: reader.found != [], "the later one's record", reader)
    assert reader.found == [(0, 2, b"of the later")], (
        "behind the aborted record and the end of its transaction"
    )
    assert failure(producer.begin_transaction).fatal(), "the earlier one is fenced"


def test_the_committed_offset_is_not_told_while_a_transaction_is_about_to_move_it(cluster, producer):
    reader = joined(cluster)
    producer.begin_transaction()
    producer.send_offsets_to_transaction(
        [reader.place(offset=7)], reader.client.consumer_group_metadata(), CALL_S
    )
    asked = failure(lambda: reader.client.committed([reader.place()], timeout=2.0))
    assert asked.code() == KafkaError._TIMED_OUT
    assert not asked.retriable(), "nor is it said that asking again helps"
    producer.commit_transaction(CALL_S)
    assert reader.committed() == 7


def test_a_partition_changes_hands_after_its_owner_has_given_it_up_and_the_rest_stays(cluster):
    first = joined(cluster)
    second = Reader(cluster)
    overlaps: list[set[int]] = []

    def shared() -> bool:
        overlaps.append(first.owned & second.owned)
        return len(first.owned) == len(second.owned) == 1

    until(cluster, shared, "one partition each", first, second)
    assert not any(overlaps)
    assert first.told == [("assign", frozenset(ALL)), ("revoke", frozenset(second.owned))]
    assert second.told == [("assign", frozenset(second.owned))]
    assert first.owned | second.owned == ALL


def test_an_aborted_transaction_leaves_a_gap(cluster, producer):
    reader = joined(cluster)
    publish(cluster, producer, b"a", b"b")  # 0, 1, and 2 ends the transaction
    producer.begin_transaction()
    write(cluster, producer, b"never read")  # 3
    producer.abort_transaction(CALL_S)  # 4
    publish(cluster, producer, b"c")
    until(cluster, lambda: len(reader.found) >= 3, "all committed records", reader)
    assert reader.found == [(0, 0, b"a"), (0, 1, b"b"), (0, 5, b"c")]


def test_nothing_behind_an_open_transaction_is_read_before_it_ends(cluster, producer):
    reader = joined(cluster)
    other = cluster.producer("other")
    other.init_transactions(CALL_S)
    producer.begin_transaction()
    write(cluster, producer, b"open")
    publish(cluster, other, b"committed behind it")
    publish(cluster, other, b"elsewhere", number=1)
    until(cluster, lambda: reader.found != [], "the other partition's record", reader)
    quiet(cluster, reader)
    assert reader.found == [(1, 0, b"elsewhere")]
    producer.commit_transaction(CALL_S)
    until(cluster, lambda: len(reader.found) == 3, "both", reader)
    assert reader.found[1:] == [(0, 0, b"open"), (0, 1, b"committed behind it")]


def test_offsets_in_a_transaction_are_refused_from_an_old_generation_and_taken_from_the_present(
    cluster, producer
):
    first = joined(cluster)
    stale = first.client.consumer_group_metadata()
    share_with(cluster, first)
    producer.begin_transaction()
    refused = failure(lambda: producer.send_offsets_to_transaction([first.place(offset=3)], stale, CALL_S))
    assert refused.code() == KafkaError.ILLEGAL_GENERATION
    assert refused.txn_requires_abort()
    assert not refused.fatal()
    producer.abort_transaction(CALL_S)
    assert first.committed() == 0
    producer.begin_transaction()
    # From the present one they are taken for any partition, also for one that the member does not own.
    places = [first.place(number, offset=3) for number in range(PARTITIONS)]
    producer.send_offsets_to_transaction(places, first.client.consumer_group_metadata(), CALL_S)
    producer.commit_transaction(CALL_S)
    assert first.committed() == 3


def test_the_position_goes_past_the_end_of_a_transaction_and_back_by_a_seek(cluster, producer):
    reader = joined(cluster)
    publish(cluster, producer, b"a", b"b")
    until(cluster, lambda: reader.position() == 3, "two records and what ends their transaction", reader)
    assert reader.offsets == [0, 1]
    reader.client.seek(reader.place(offset=1))
    until(cluster, lambda: len(reader.found) == 3, "the second record again", reader)
    assert reader.offsets == [0, 1, 1]
    second = share_with(cluster, reader)
    (gone,) = second.owned
    refused = failure(lambda: reader.client.seek(reader.place(gone, offset=0)))
    assert refused.code() == KafkaError._STATE, "given up"


def test_a_commit_may_go_back_and_reach_beyond_what_the_member_owns_but_not_come_from_an_old_generation(
    cluster,
):
    first = joined(cluster)
    for offset in (5, 3):
        first.client.commit(offsets=[first.place(offset=offset)], asynchronous=False)
        assert first.committed() == offset
    second = share_with(cluster, first)
    (beyond,) = second.owned
    first.client.commit(offsets=[first.place(beyond, offset=9)], asynchronous=False)
    assert second.client.committed([first.place(beyond)], timeout=CALL_S)[0].offset == 9
    first.client.close()
    until(cluster, lambda: second.owned == ALL, "the one that stays has everything", second)
    assert second.committed() == (9 if beyond == 0 else 3)
