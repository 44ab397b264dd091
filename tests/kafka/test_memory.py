"""What waits in the topic may unpack to more than the machine has: with small fetches memory does not grow with it."""

from __future__ import annotations

from pathlib import Path

from confluent_kafka import Producer

from schemas import SequenceRecord, encode_record
from tests.support.harness import PARTITIONS, NoopServe, serving
from tests.support.kafka.job import UNIT, Job

COUNT, EACH_BYTES = 250, 4_000_000
BOUND_BYTES = (
    700_000_000  # the budget of 67 MB, the client's 34 MB, 70 such messages of one fetch, and the program
)


def peak_memory(pid: int) -> int:
    """Most bytes that a process has had in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"no VmHWM of process {pid}")


def test_a_backlog_that_unpacks_to_a_gigabyte_is_read_in_bounded_memory(job: Job, tmp_path: Path) -> None:
    value = encode_record(SequenceRecord("x", UNIT, "d" * EACH_BYTES))
    options = {"compression.type": "zstd", "message.max.bytes": 2 * EACH_BYTES, "enable.idempotence": True}
    producer = Producer({"bootstrap.servers": job.bootstrap} | options)
    for number in range(COUNT):
        producer.produce(f"{job.name}.in", value, b"k", number % PARTITIONS)
        producer.flush(30)
    with serving(
        tmp_path / "serve.log", kind=NoopServe, **job.worker(0), VIRNUCPRO_KAFKA_FETCH_MAX_BYTES="16384"
    ) as serve:
        job.finish(COUNT)
        assert peak_memory(serve.process.pid) < BOUND_BYTES
        assert serve.stop() == 0
    assert len(job.read_all("out")) == COUNT
