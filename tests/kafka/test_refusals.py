"""What the broker refuses once it answers: topics that are not there, messages that are too large or too new."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from confluent_kafka import Message

from schemas import Reason, SequenceRecord, decode_dead_letter, decode_prediction, encode_record
from tests.support.harness import NoopServe, produce, serving, wait_until
from tests.support.kafka import admin
from tests.support.kafka.ending import last_words
from tests.support.kafka.job import Job

RECORDS = 20
FEW_BYTES = "900"  # enough for the prediction of a short id
ROOM_FOR_MARKERS = "120"  # less stops the broker itself: it could not write that a transaction was aborted
WATCHFUL = {
    "VIRNUCPRO_KAFKA_TOPIC_METADATA_REFRESH_INTERVAL_MS": "500",
    "VIRNUCPRO_KAFKA_TOPIC_METADATA_PROPAGATION_MAX_MS": "500",
}
HALF_AN_HOUR_MS = 1_800_000
A_MINUTE_MS = "60000"

GUARANTEES = ["exactly_once", "at_least_once"]


@pytest.fixture(params=GUARANTEES)
def guarantee(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"VIRNUCPRO_DELIVERY": request.param}


def records(*ids: str) -> list[bytes]:
    return [encode_record(SequenceRecord(record_id, "ACGT" * 5)) for record_id in ids]


def numbered(count: int) -> list[str]:
    return [f"n{n}" for n in range(count)]


def send(job: Job, values: list[bytes], partition: int = 0, **options: object) -> None:
    produce(
        job.bootstrap,
        ({"value": value, "partition": partition, **options} for value in values),
        f"{job.name}.in",
    )


def predicted(job: Job) -> Counter[str]:
    return Counter(decode_prediction(message.value()).id for message in job.read_all("out"))


def letters(job: Job) -> Iterator[tuple[Reason, bytes | None]]:
    for message in job.read_all("dlq"):
        letter = decode_dead_letter(message.value())
        yield letter.reason, letter.value


# ---- topics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["INPUT", "OUTPUT", "DLQ"])
def test_a_topic_that_is_missing_at_the_start(job, tmp_path, which):
    missing = {f"VIRNUCPRO_{which}_TOPIC": f"{job.name}.nowhere"}
    line = last_words(NoopServe(tmp_path / "serve.log", **(job.worker(0) | missing)))
    assert f"{job.name}.nowhere does not exist" in line
    assert "create it (virnucpro topics ensure)" in line
    assert f"VIRNUCPRO_{which}_TOPIC" in line


def test_an_output_topic_that_is_deleted_meanwhile(job, tmp_path, guarantee):
    with serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0), **guarantee, **WATCHFUL) as serve:
        send(job, records(*numbered(RECORDS)))
        job.finish(RECORDS)
        admin.delete_topic(job.bootstrap, f"{job.name}.out")
        send(job, records(*numbered(RECORDS)))
        line = last_words(serve)
    assert f"{job.name}.out" in line


def test_an_input_topic_that_is_deleted_meanwhile(job, tmp_path, guarantee):
    with serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0), **guarantee, **WATCHFUL) as serve:
        send(job, records(*numbered(RECORDS)))
        job.finish(RECORDS)
        admin.delete_topic(job.bootstrap, f"{job.name}.in")
        line = last_words(serve)
    assert f"{job.name}.in" in line
    assert "create" in line


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_compacted_topics_for_answers_are_refused_at_the_start(job, tmp_path, guarantee, policy):
    for topic in ("in", "out", "dlq"):
        admin.configure_topic(job.bootstrap, f"{job.name}.{topic}", "cleanup.policy", policy)
    send(job, records("waits"), key=b"k")
    line = last_words(NoopServe(tmp_path / "serve.log", **job.worker(0), **guarantee))
    assert f"{job.name}.out (VIRNUCPRO_OUTPUT_TOPIC), {job.name}.dlq (VIRNUCPRO_DLQ_TOPIC)" in line
    assert f"{job.name}.in" not in line, "what is read may be compacted"
    assert "set cleanup.policy=delete on each (virnucpro topics ensure)" in line
    for topic in ("out", "dlq"):
        admin.configure_topic(job.bootstrap, f"{job.name}.{topic}", "cleanup.policy", "delete")
    with serving(tmp_path / "again.log", kind=NoopServe, **job.worker(0), **guarantee) as serve:
        job.finish(1)
        assert serve.stop() == 0
    assert predicted(job) == Counter(["waits"])


# ---- size -----------------------------------------------------------------------------------------------------


def test_a_prediction_that_the_output_topic_finds_too_large_is_a_dead_letter(job, tmp_path, guarantee):
    large = records(secrets.token_hex(450))
    with serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0), **guarantee) as serve:
        send(job, records("before"))
        job.finish(1)
        admin.configure_topic(job.bootstrap, f"{job.name}.out", "max.message.bytes", FEW_BYTES)
        send(job, [*records(*numbered(5)), *large, *records("after")])
        job.finish(8)
        assert serve.metric("vnp_dead_letters_total", reason="prediction_too_large") == 1
        assert serve.stop() == 0
    assert predicted(job) == Counter(["before", *numbered(5), "after"])
    assert list(letters(job)) == [(Reason.PREDICTION_TOO_LARGE, large[0])]


def test_a_dead_letter_topic_that_takes_nothing(job, tmp_path, guarantee):
    admin.configure_topic(job.bootstrap, f"{job.name}.dlq", "max.message.bytes", ROOM_FOR_MARKERS)
    with serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0), **guarantee) as serve:
        send(job, [*records(*numbered(3)), b"junk"])
        line = last_words(serve)
    assert f"{job.name}.dlq" in line
    assert "raise max.message.bytes" in line
    assert predicted(job).keys() <= set(numbered(3))


def test_a_dead_letter_that_is_cut_keeps_its_key_for_a_topic_that_is_compacted_meanwhile(
    job, tmp_path, guarantee
):
    with serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0), **guarantee) as serve:
        for name, value in (("cleanup.policy", "compact"), ("max.message.bytes", "20000")):
            admin.configure_topic(job.bootstrap, f"{job.name}.dlq", name, value)
        send(job, [secrets.token_bytes(500_000)], key=b"the key")
        send(job, records("after"), key=b"another")
        job.finish(2)
        assert serve.stop() == 0
    (message,) = job.read_all("dlq")
    letter = decode_dead_letter(message.value())
    assert (message.key(), letter.key, letter.value) == (b"the key", b"the key", None)
    assert letter.truncated
    assert predicted(job) == Counter(["after"])


# ---- timestamps -----------------------------------------------------------------------------------------------


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def about_now(message: Message) -> bool:
    return abs(message.timestamp()[1] - now_ms()) < HALF_AN_HOUR_MS / 2


def refuse_the_future(job: Job) -> None:
    for topic in ("out", "dlq"):
        admin.configure_topic(
            job.bootstrap, f"{job.name}.{topic}", "message.timestamp.after.max.ms", A_MINUTE_MS
        )


def test_an_answer_whose_timestamp_is_refused_goes_without_it(job, tmp_path, guarantee):
    refuse_the_future(job)
    with serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0), **guarantee) as serve:
        send(job, [*records("early"), b"junk"], timestamp=now_ms() + HALF_AN_HOUR_MS)
        job.finish(2)
        send(job, records("late"))
        job.finish(3)
        assert serve.stop() == 0
    assert predicted(job) == Counter(["early", "late"])
    assert list(letters(job)) == [(Reason.MALFORMED, b"junk")]
    assert all(about_now(message) for topic in ("out", "dlq") for message in job.read_all(topic))


def test_refused_timestamps_among_others(job, tmp_path, guarantee):
    refuse_the_future(job)
    kept, refused = now_ms() - HALF_AN_HOUR_MS, now_ms() + HALF_AN_HOUR_MS
    together = {"VIRNUCPRO_COMMIT_INTERVAL_MS": "3000", "VIRNUCPRO_KAFKA_LINGER_MS": "300"}
    with serving(tmp_path / "serve.log", kind=NoopServe, **job.worker(0), **guarantee, **together) as serve:
        send(job, records("first"), timestamp=kept)
        job.finish(1)  # from here to the next commit there is time for the others to gather
        messages = (
            {"value": value, "partition": 0, "timestamp": refused if n in (3, 6) else kept}
            for n, value in enumerate(records(*numbered(10)))
        )
        produce(job.bootstrap, messages, f"{job.name}.in")
        wait_until(lambda: serve.process.poll() is not None or job.committed() == 11, "done, or gone", 30)
        assert serve.stop() == 0
    found = job.read_all("out")
    assert [decode_prediction(message.value()).id for message in found] == ["first", *numbered(10)]
    assert [message.timestamp()[1] == kept for message in found[1:]] == [n not in (3, 6) for n in range(10)]
