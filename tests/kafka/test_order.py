"""In which order predictions come: by partition where the counts match, else by key. And who gets a turn."""

from __future__ import annotations

import uuid
from collections import defaultdict

from schemas import SequenceRecord, decode_prediction, encode_record
from tests.support.harness import NoopServe, produce, read, serving, wait_until
from tests.support.kafka.job import Job

RECORDS = 600
KEYS = 12


def record(number: int) -> bytes:
    return encode_record(SequenceRecord(str(number), "ACGT" * (200 + number % 7)))


def served(job: Job, tmp_path, **variables: str):
    return serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0), **variables)


def test_with_equal_counts_each_partition_keeps_its_number_and_order(job, tmp_path):
    produce(
        job.bootstrap, ({"value": record(n), "partition": n % 4} for n in range(RECORDS)), f"{job.name}.in"
    )
    with served(job, tmp_path, VIRNUCPRO_TOKEN_BUDGET="500"):
        found = read(job.bootstrap, f"{job.name}.out", lambda found: len(found) == RECORDS)
    by_partition = defaultdict(list)
    for message in found:
        by_partition[message.partition()].append(int(decode_prediction(message.value()).id))
    assert dict(by_partition) == {number: list(range(number, RECORDS, 4)) for number in range(4)}


def test_with_other_counts_each_key_keeps_its_order(broker, tmp_path):
    job = Job(broker.bootstrap_servers, f"t{uuid.uuid4().hex[:8]}")
    broker.create_topics({f"{job.name}.in": 4, f"{job.name}.out": 3, f"{job.name}.dlq": 1})
    messages = ({"value": record(n), "key": f"key-{n % KEYS}".encode()} for n in range(RECORDS))
    produce(job.bootstrap, messages, f"{job.name}.in")
    with served(job, tmp_path, VIRNUCPRO_TOKEN_BUDGET="500"):
        job.finish(RECORDS)
    found = read(job.bootstrap, f"{job.name}.out", lambda found: len(found) == RECORDS, partitions=3)
    by_key = defaultdict(list)
    homes = defaultdict(set)
    for message in found:
        by_key[message.key()].append(int(decode_prediction(message.value()).id))
        homes[message.key()].add(message.partition())
    assert dict(by_key) == {f"key-{k}".encode(): list(range(k, RECORDS, KEYS)) for k in range(KEYS)}
    assert all(len(partitions) == 1 for partitions in homes.values())


def test_one_partition_far_ahead_does_not_keep_the_others_waiting(job, tmp_path):
    ahead, late = 20_000, 50
    topic = f"{job.name}.in"
    produce(job.bootstrap, ({"value": record(n), "partition": 0} for n in range(ahead)), topic)
    with served(job, tmp_path, NOOP_TOKENS_PER_S="200000") as serve:  # 2,000 records a second
        wait_until(lambda: serve.metric("vnp_records_total", outcome="predicted") > 100, "it is at work")
        produce(job.bootstrap, ({"value": record(n), "partition": 1} for n in range(late)), topic)

        def answered(found) -> bool:
            return sum(message.partition() == 1 for message in found) == late

        found = read(job.bootstrap, f"{job.name}.out", answered)
        before = sum(message.partition() == 0 for message in found)
        assert answered(found)
        assert before < ahead / 2, "the late partition had its turn long before the other was through"


def test_with_ten_times_more_than_it_can_take_what_is_in_flight_stays_bounded(job, tmp_path):
    limit = 40
    produce(job.bootstrap, ({"value": record(n), "partition": n % 4} for n in range(1000)), f"{job.name}.in")
    most = []
    variables = {"NOOP_TOKENS_PER_S": "20000", "VIRNUCPRO_TOKEN_BUDGET": "500"}
    with served(job, tmp_path, **variables, VIRNUCPRO_MAX_INFLIGHT_RECORDS=str(limit)) as serve:

        def done() -> bool:
            most.append(serve.metric("vnp_inflight_records"))
            return serve.metric("vnp_records_total", outcome="predicted") == 1000

        wait_until(done, "all predicted")
        assert max(most) <= limit
        assert serve.metric("vnp_backpressure_seconds_total", level="hold") > 0
