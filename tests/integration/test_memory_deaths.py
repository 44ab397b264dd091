"""A process that the kernel kills for lack of memory blames no record that was merely in flight. Pipeline and
quarantine are real, with their threads and files; Kafka is in memory."""

from __future__ import annotations

import time
from contextlib import suppress

from consumer.ledger import Ledger
from consumer.scoring.model import ServedModel
from consumer.types import Partition
from schemas import SequenceRecord, decode_prediction, encode_record
from tests.simulation.member import INPUT, LETTERS, OUTPUT, PARTITIONS, Member
from tests.simulation.memory_kafka import MemoryKafka
from tests.support.factories import INFO, ConstantScorer, FakeClock, prepared_record

RECORDS, FITS = 12, 3


class Died(BaseException):
    """Stands for the end of the process: what was written stays."""


class Greedy(ConstantScorer):
    """Dies whenever more records are in flight than memory holds."""

    ledger: Ledger

    def score(self, frames):
        if self.ledger.records > FITS:
            raise Died
        return super().score(frames)


def life(state_dir: str, begin: int) -> tuple[list[str], bool]:
    """One process, which begins at an offset: the ids that it answers, and whether it died."""
    kafka = MemoryKafka(FakeClock(), dict.fromkeys((INPUT, OUTPUT, LETTERS), PARTITIONS), 1e6, 1e6, 1e6)
    first = Partition(INPUT, 0)
    kafka.write(first, [encode_record(SequenceRecord(str(n), "ACGT")) for n in range(RECORDS)])
    kafka.group.committed[first] = begin
    scorer = Greedy()
    model = ServedModel(scorer, lambda record_id, _: prepared_record(10, record_id=record_id), INFO, 20)
    options = {"max_inflight_records": 100, "max_wait_ms": 10, "commit_interval_ms": 0}
    options["frame_cache"] = 0  # all of them are equal
    member = Member(kafka, 0, False, model=model, state_dir=state_dir, instance_id="n", **options)
    scorer.ledger = member.ledger
    end, died = time.monotonic() + 60, False
    try:
        member.begin()
        while kafka.group.committed[first] < RECORDS:
            assert time.monotonic() < end, "no progress"
            member.service.turn()
    except Died:
        died = True
    with suppress(Died):
        member.take_down()
    return [decode_prediction(record.value).id for _, _, record in kafka.records(OUTPUT)], died


def test_deaths_for_lack_of_memory_set_no_good_record_aside(tmp_path):
    answered: list[str] = []
    deaths = 0
    while len(answered) < RECORDS:
        ids, died = life(str(tmp_path), len(answered))
        answered += ids
        deaths += died
        assert deaths < 60, "no progress"
    assert deaths >= 3
    assert answered == [str(number) for number in range(RECORDS)], "a dead letter is not a prediction"
