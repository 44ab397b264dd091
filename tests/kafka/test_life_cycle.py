"""How a process ends and comes back: signals, deadlines, frozen processes, records that kill. On a real Kafka."""

from __future__ import annotations

import json
import signal
import time

import pytest

from schemas import Reason, SequenceRecord, decode_dead_letter, encode_record
from tests.support.harness import NoopServe, Serve, produce, read, serving, wait_until
from tests.support.kafka.job import Job
from tests.support.noop_service import FAILS

RECORDS = 200
SLOW = {"NOOP_TOKENS_PER_S": "4000", "VIRNUCPRO_TOKEN_BUDGET": "1000"}  # a batch of ten records takes 0.25 s
HANGS = {"NOOP_TOKENS_PER_S": "10"}  # a record takes ten seconds


def worker(job: Job, number: int, **variables: str) -> dict[str, str]:
    return job.worker(number) | variables


def begun(serve: Serve) -> bool:
    """Something is in flight, and the device has begun: what is read and not begun would be dropped at the end."""
    computing = serve.metric("vnp_thread_seconds_total", thread="inference", stage="infer") > 0
    return computing and serve.metric("vnp_inflight_records") > 0


def finish_and_check(job: Job, tmp_path, number: int = 0) -> None:
    with serving(tmp_path / "last.log", kind=NoopServe, **worker(job, number)):
        job.finish(RECORDS)
    job.check(RECORDS)


def test_a_second_sigterm_ends_it_at_once(job, tmp_path):
    with serving(tmp_path / "0.log", kind=NoopServe, **worker(job, 0, **HANGS)) as serve:
        job.publish(0, RECORDS)
        wait_until(lambda: begun(serve), "work in flight")
        serve.process.send_signal(signal.SIGTERM)
        wait_until(lambda: serve.get("/readyz")[0] == 503, "it drains")
        sent = time.monotonic()
        assert serve.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        assert time.monotonic() - sent < 8, "it did not wait for the ten seconds of a record"
    finish_and_check(job, tmp_path)


def test_a_drain_that_takes_too_long_ends_with_code_1_and_loses_nothing(job, tmp_path):
    variables = worker(job, 0, **HANGS, VIRNUCPRO_DRAIN_TIMEOUT_S="1")
    with serving(tmp_path / "0.log", kind=NoopServe, **variables) as serve:
        job.publish(0, RECORDS)
        wait_until(lambda: begun(serve), "work in flight")
        assert serve.stop(signal.SIGTERM) == 1
        lines = [json.loads(line) for line in (tmp_path / "0.log").read_text().splitlines()]
        assert ("drain_timed_out", "warning") in [(line["event"], line["level"]) for line in lines]
    finish_and_check(job, tmp_path)


def test_frozen_past_its_session_it_commits_nothing_of_what_others_took(job, tmp_path):
    with (
        serving(tmp_path / "0.log", kind=NoopServe, **worker(job, 0, **SLOW)) as frozen,
        serving(tmp_path / "1.log", kind=NoopServe, **worker(job, 1, **SLOW)) as other,
    ):
        wait_until(lambda: other.metric("vnp_assigned_partitions") == 2, "partitions shared")
        job.publish(0, RECORDS)
        wait_until(lambda: begun(frozen), "work in flight")
        frozen.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: other.metric("vnp_assigned_partitions") == 4, "partitions taken over")
        job.finish(RECORDS)
        frozen.process.send_signal(signal.SIGCONT)
        assert_back_or_fenced(frozen)
    job.check(RECORDS)


def test_alone_and_frozen_past_max_poll_interval_it_goes_on(job, tmp_path):
    variables = worker(job, 0, **SLOW, VIRNUCPRO_KAFKA_MAX_POLL_INTERVAL_MS="6000")
    with serving(tmp_path / "0.log", kind=NoopServe, **variables) as serve:
        job.publish(0, RECORDS)
        wait_until(lambda: begun(serve), "work in flight")
        serve.process.send_signal(signal.SIGSTOP)
        time.sleep(9)  # for the broker, which counts by its own clock
        serve.process.send_signal(signal.SIGCONT)
        if assert_back_or_fenced(serve):
            job.finish(RECORDS)
    finish_and_check(job, tmp_path)


def assert_back_or_fenced(serve: Serve) -> bool:
    """Frozen in a transaction it is fenced (exit code 4, a supervisor starts it again), else it joins again."""

    def back() -> bool:
        try:
            return serve.metric("vnp_assigned_partitions") > 0
        except OSError:  # it is on its way out
            return False

    wait_until(lambda: serve.process.poll() is not None or back(), "back or gone")
    code = serve.process.poll()
    assert code in (None, 4), serve.log.read_text()[-2000:]
    return code is None


def test_a_record_that_kills_the_process_is_set_aside_at_the_fourth_start(job, tmp_path):
    deadly = encode_record(SequenceRecord("deadly!kills", "ACGT"))
    job.publish(0, 50)
    produce(job.bootstrap, [{"value": deadly, "partition": 1}], f"{job.name}.in")
    job.publish(50, 100)
    codes = []
    for life in range(3):
        serve = NoopServe(tmp_path / f"{life}.log", **worker(job, 0))
        codes.append(serve.process.wait(60))
        serve.close()
    assert codes == [-signal.SIGKILL] * 3
    with serving(tmp_path / "last.log", kind=NoopServe, **worker(job, 0)) as serve:
        job.finish(101)
        assert serve.metric("vnp_dead_letters_total", reason="quarantined") == 1
    dead = [decode_dead_letter(m.value()) for m in read(job.bootstrap, f"{job.name}.dlq", lambda _: False, 4)]
    (letter,) = [letter for letter in dead if letter.reason is Reason.QUARANTINED]
    assert letter.value == deadly
    assert len(dead) == 11, "and the ten of the stream that are malformed"


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_when_most_records_fail_reading_stops(job, tmp_path, guarantee):
    variables = worker(
        job,
        0,
        VIRNUCPRO_DELIVERY=guarantee,
        VIRNUCPRO_BREAKER_RECORDS="50",
        VIRNUCPRO_BREAKER_PAUSE_S="2",
        VIRNUCPRO_MAX_INFLIGHT_RECORDS="100",
    )
    failing = encode_record(SequenceRecord(f"r{FAILS}", "ACGTACGT"))
    produce(job.bootstrap, ({"value": failing, "partition": n % 4} for n in range(1000)), f"{job.name}.in")
    with serving(tmp_path / "0.log", kind=NoopServe, **variables) as serve:
        wait_until(lambda: serve.metric("vnp_breaker_open") == 1, "the breaker is open")
        code, why = serve.get("/readyz")
        assert (code, "most records fail" in why) == (503, True)
        wait_until(lambda: serve.metric("vnp_inflight_records") == 0, "what was in flight is answered")
        assert serve.metric("vnp_dead_letters_total", reason="inference_failed") < 300
        assert serve.stop() == 0


def test_a_flood_of_refused_content_holds_up_no_good_record(job, tmp_path):
    produce(job.bootstrap, ({"value": b"junk", "partition": 0} for _ in range(3000)), f"{job.name}.in")
    good = [encode_record(SequenceRecord(f"r{n}", "ACGTACGT")) for n in range(300)]
    messages = ({"value": value, "partition": n % 4} for n, value in enumerate(good))
    produce(job.bootstrap, messages, f"{job.name}.in")
    with serving(tmp_path / "0.log", kind=NoopServe, **worker(job, 0)) as serve:
        job.finish(3300)
        assert serve.metric("vnp_dead_letters_total", reason="malformed") == 3000
        assert serve.metric("vnp_records_total", outcome="predicted") == 300
        assert serve.stop() == 0
    assert "breaker_opened" not in (tmp_path / "0.log").read_text()
