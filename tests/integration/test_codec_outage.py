"""A dependency of the codec that does not answer delays records and refuses none. The pipeline is real, with its
threads; Kafka is in memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from consumer.scoring.model import ServedModel
from consumer.types import Partition
from schemas import SequenceRecord, decode_prediction, encode_record
from schemas.codecs import AvroCodec, DependencyUnavailable
from tests.simulation.member import INPUT, LETTERS, OUTPUT, PARTITIONS, Member
from tests.simulation.memory_kafka import MemoryKafka
from tests.support.factories import INFO, ConstantScorer, FakeClock, prepared_record


class Failing(AvroCodec):
    """Cannot decode for the first calls, because what it depends on does not answer."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def decode_record(self, value, headers):
        if self.failures:
            self.failures -= 1
            raise DependencyUnavailable("the registry does not answer")
        return super().decode_record(value, headers)


class RunningClock(FakeClock):
    """Goes with the time that the pipeline's threads take."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()

    def __call__(self) -> float:
        return super().__call__() + time.monotonic() - self._began


class Bench:
    """One member of a group, with a real pipeline."""

    def __init__(self, failures: int, state_dir: str) -> None:
        self.kafka = MemoryKafka(
            RunningClock(), dict.fromkeys((INPUT, OUTPUT, LETTERS), PARTITIONS), 1e6, 1e6, 1e6
        )
        model = ServedModel(
            ConstantScorer(), lambda record_id, _: prepared_record(10, record_id=record_id), INFO, 20
        )
        options = {"max_inflight_records": 100, "max_wait_ms": 10, "commit_interval_ms": 0}
        self.member = Member(
            self.kafka, 0, False, model=model, codec=Failing(failures), state_dir=state_dir, **options
        )
        self.member.begin()

    def write(self, number: int, count: int) -> None:
        values = [encode_record(SequenceRecord(f"{number}/{offset}", "ACGT")) for offset in range(count)]
        self.kafka.write(Partition(INPUT, number), values)

    def turn_until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "the condition did not come"
            self.member.service.turn()

    def count(self, name: str) -> float:
        return self.member.telemetry.metrics.registry.get_sample_value(f"vnp_{name}") or 0.0


def test_records_are_answered_when_the_dependency_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("consumer.scoring.delayed.FIRST_RETRY_S", 0.01)
    bench = Bench(25, str(tmp_path))
    bench.write(0, 20)
    bench.turn_until(lambda: bench.kafka.group.committed.get(Partition(INPUT, 0)) == 20)
    ids = [decode_prediction(record.value).id for _, _, record in bench.kafka.records(OUTPUT)]
    assert ids == [f"0/{offset}" for offset in range(20)]
    assert list(bench.kafka.records(LETTERS)) == []
    assert bench.count("records_delayed_total") == 25
    bench.member.take_down()


@pytest.mark.parametrize("records", [1, 5])
def test_a_drain_leaves_what_is_delayed_uncommitted(tmp_path, records):
    bench = Bench(1_000_000, str(tmp_path))
    bench.write(0, records)
    bench.turn_until(lambda: bench.count("delayed_records") == records)
    assert bench.member.service.drain(0.2)
    assert list(bench.kafka.records(OUTPUT)) == []
    assert list(bench.kafka.records(LETTERS)) == []
    assert bench.kafka.group.committed.get(Partition(INPUT, 0), 0) <= 0
    bench.member.take_down()
    assert bench.count("delayed_records") == 0
