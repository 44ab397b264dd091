"""A partition whose committed offset the broker withholds is read from that offset once it is known."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.support.harness import PARTITIONS, NoopServe, serving, wait_until
from tests.support.kafka.job import Job

RECORDS, MORE = 120, 240


def open_transaction(job: Job) -> Producer:
    """As a member leaves one behind that was killed in it; on the offsets of all partitions, moved by nothing."""
    consumer = Consumer({"bootstrap.servers": job.bootstrap, "group.id": job.name})
    try:
        partitions = [TopicPartition(f"{job.name}.in", number) for number in range(PARTITIONS)]
        offsets = consumer.committed(partitions, timeout=10)
        producer = Producer({"bootstrap.servers": job.bootstrap, "transactional.id": f"{job.name}.dead"})
        producer.init_transactions(10)
        producer.begin_transaction()
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 10)
        return producer
    finally:
        consumer.close()


def test_an_assignment_that_changes_while_a_transaction_is_open_begins_nothing_anew(job, tmp_path):
    """The client asks for the offset until the transaction has ended; but when the assignment changes meanwhile, it
    goes on as if nothing had ever been committed."""
    with serving(tmp_path / "before.log", kind=NoopServe, **job.worker(0)) as serve:
        job.publish(0, RECORDS)
        job.finish(RECORDS)
        assert serve.stop() == 0
    dead = open_transaction(job)
    with serving(tmp_path / "0.log", kind=NoopServe, **job.worker(0)) as one:
        wait_until(lambda: one.metric("vnp_assigned_partitions") == PARTITIONS, "it has joined")
        job.publish(RECORDS, MORE)
        with serving(tmp_path / "1.log", kind=NoopServe, **job.worker(1)) as two:
            wait_until(lambda: two.metric("vnp_assigned_partitions") > 0, "partitions taken over")
            wait_until(lambda: one.metric("vnp_held_partitions") > 0, "it has met messages of the past")
            assert [serve.metric("vnp_records_consumed_total") for serve in (one, two)] == [0, 0]
        dead.abort_transaction(10)
        job.finish(MORE)
        assert one.metric("vnp_held_partitions") == 0
    job.check(MORE)
