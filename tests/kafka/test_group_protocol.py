"""The service as a member of a group of the new protocol (KIP-848), where the broker assigns partitions."""

from __future__ import annotations

import signal

from tests.support.harness import PARTITIONS, NoopServe, produce, read, serving, virnucpro, wait_until
from tests.support.kafka.admin import add_partitions
from tests.support.kafka.job import record

RECORDS = 400
PROTOCOL = "VIRNUCPRO_KAFKA_GROUP_PROTOCOL"


def variables(job, number: int) -> dict[str, str]:
    chosen = job.worker(number) | {
        PROTOCOL: "consumer",
        "NOOP_TOKENS_PER_S": "8000",
        "VIRNUCPRO_TOKEN_BUDGET": "1000",
    }
    del chosen["VIRNUCPRO_KAFKA_SESSION_TIMEOUT_MS"]
    return chosen


def test_members_that_come_die_and_go_repeat_nothing(job, tmp_path):
    with serving(tmp_path / "0.log", kind=NoopServe, **variables(job, 0)) as first:
        job.publish(0, 200)
        wait_until(lambda: first.metric("vnp_records_total", outcome="predicted") >= 20, "some predictions")
        with serving(tmp_path / "1.log", kind=NoopServe, **variables(job, 1)) as second:
            wait_until(lambda: second.metric("vnp_assigned_partitions") == 2, "partitions taken over")
            assert first.metric("vnp_rebalances_total", event="revoked") >= 1
            job.publish(200, RECORDS)
            wait_until(lambda: second.metric("vnp_inflight_records") > 0, "work in flight")
            assert second.stop(signal.SIGKILL) == -signal.SIGKILL
            job.finish(RECORDS)
        assert first.stop() == 0
    job.check(RECORDS)


def test_partitions_that_are_added_are_answered_before_the_producer_looks_at_its_topics_by_itself(
    job, tmp_path
):
    """It does so every five minutes; the broker assigns a new partition within seconds."""
    more = PARTITIONS + 2
    with serving(tmp_path / "0.log", kind=NoopServe, **variables(job, 0)) as service:
        job.publish(0, 20)
        job.finish(20)
        add_partitions(job.bootstrap, {f"{job.name}.{topic}": more for topic in ("in", "out", "dlq")})
        wait_until(lambda: service.metric("vnp_assigned_partitions") == more, "the new partitions")
        messages = [{"value": record(number), "partition": number % more} for number in range(20, 80)]
        produce(job.bootstrap, messages, f"{job.name}.in")
        answered = 0.9 * 80
        wait_until(lambda: service.metric("vnp_records_total", outcome="predicted") == answered, "all")
        assert service.stop() == 0
    found = read(job.bootstrap, f"{job.name}.out", lambda found: len(found) == answered, partitions=more)
    assert {message.partition() for message in found} == set(range(more)), "each beside its record"


def test_options_of_the_classic_protocol_are_refused_with_it(job):
    done = virnucpro("serve", "--print-config", **job.variables, **{PROTOCOL: "consumer"})
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "VIRNUCPRO_KAFKA_SESSION_TIMEOUT_MS is refused" in line
    assert "the broker decides it" in line
