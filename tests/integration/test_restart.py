"""Stopping the service in mid-flight, gently and not: nothing is lost. The broker runs in a separate process."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from schemas import SequenceRecord, decode_dead_letter, decode_prediction, encode_record
from tests.support.harness import broker_process, committed, produce, read, serving, wait_until

RECORDS = 400
UNIT = "ATGGCTAAAGGTCTGCCATTCGACGGTACCGAATGG"


@pytest.fixture
def bootstrap(tmp_path):
    with broker_process(tmp_path / "broker.log") as address:
        yield address


@pytest.fixture
def variables(bootstrap) -> dict[str, str]:
    return {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "VIRNUCPRO_DELIVERY": "at_least_once",
        "VIRNUCPRO_KAFKA_SESSION_TIMEOUT_MS": "6000",
    }


def record(number: int) -> bytes:
    """Every tenth record is bad: dead letters must survive as predictions do."""
    if number % 10 == 9:
        return f"junk {number}".encode()
    return encode_record(SequenceRecord(f"r{number}", UNIT * (5 + 7 * number % 20)))


def publish(bootstrap: str) -> None:
    produce(bootstrap, ({"key": str(n).encode(), "value": record(n)} for n in range(RECORDS)))


def answers(bootstrap: str) -> tuple[Counter[str], Counter[bytes]]:
    """Ids predicted and raw values dead-lettered, once every input offset is committed."""
    wait_until(lambda: committed(bootstrap) == RECORDS, "every offset committed", seconds=120)
    bad = len([n for n in range(RECORDS) if n % 10 == 9])
    good = RECORDS - bad

    def all_ids(found):
        return len({m.key() for m in found}) >= good

    predicted = read(bootstrap, "predictions", all_ids)
    dead = read(bootstrap, "sequences.dlq", lambda found: len({m.key() for m in found}) >= bad)
    return (
        Counter(decode_prediction(m.value()).id for m in predicted),
        Counter(decode_dead_letter(m.value()).value for m in dead),
    )


def check_nothing_lost(predicted: Counter[str], dead: Counter[bytes]) -> None:
    assert set(predicted) == {f"r{n}" for n in range(RECORDS) if n % 10 != 9}
    assert set(dead) == {record(n) for n in range(RECORDS) if n % 10 == 9}


def in_mid_flight(serve) -> bool:
    return serve.metric("vnp_records_total", outcome="predicted") >= 20


def test_sigterm_drains_and_a_restart_goes_on(bootstrap, variables, tmp_path):
    variables |= {"VIRNUCPRO_MAX_INFLIGHT_RECORDS": "40"}
    with serving(tmp_path / "first.log", **variables) as serve:
        publish(bootstrap)
        wait_until(lambda: in_mid_flight(serve), "some predictions")
        assert serve.stop(signal.SIGTERM) == 0
    done = committed(bootstrap)
    assert 20 <= done < RECORDS, "stopped in mid-flight"
    delivered = len(read(bootstrap, "predictions", lambda found: False, seconds=3))
    assert delivered == done - len(read(bootstrap, "sequences.dlq", lambda found: False, seconds=3)), (
        "drained"
    )
    with serving(tmp_path / "second.log", **variables):
        predicted, dead = answers(bootstrap)
    check_nothing_lost(predicted, dead)
    assert max(predicted.values()) == 1, "a drained stop repeats nothing"


def test_sigkill_loses_nothing(bootstrap, variables, tmp_path):
    with serving(tmp_path / "first.log", **variables) as serve:
        publish(bootstrap)
        wait_until(lambda: in_mid_flight(serve), "some predictions")
        assert serve.stop(signal.SIGKILL) == -signal.SIGKILL
    assert committed(bootstrap) < RECORDS, "killed in mid-flight"
    with serving(tmp_path / "second.log", **variables):
        predicted, dead = answers(bootstrap)
    check_nothing_lost(predicted, dead)


def test_two_members_share_the_partitions_and_hand_them_over(bootstrap, variables, tmp_path):
    with serving(tmp_path / "first.log", **variables) as first:
        publish(bootstrap)
        wait_until(lambda: in_mid_flight(first), "some predictions")
        with serving(tmp_path / "second.log", **variables) as second:
            wait_until(lambda: second.metric("vnp_assigned_partitions") == 2, "partitions taken over")
            assert first.metric("vnp_assigned_partitions") == 2
            predicted, dead = answers(bootstrap)
    check_nothing_lost(predicted, dead)
