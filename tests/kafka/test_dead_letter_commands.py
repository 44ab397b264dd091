"""Dead letters on a real broker: inspected, exported, mended, replayed, predicted.

Nothing is replayed twice and nothing is lost, whatever is killed in between.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from consumer.cli.app import run
from consumer.errors import ExitCode
from schemas import Reason, SequenceRecord, decode_prediction, encode_record, schema_json
from tests.support.harness import ROOT, NoopServe, environment, produce, serving, wait_until
from tests.support.kafka import admin
from tests.support.kafka.job import Job
from tests.support.noop_service import FAILS, KILLS
from tests.support.registry import ApicurioRegistry

LONG = 30
SHORT_LIMIT = {"VIRNUCPRO_MAX_SEQUENCE_BASES": "100"}
BAD = (
    b"not a record",
    encode_record(SequenceRecord("empty", "")),
    encode_record(SequenceRecord("gap", "AC-T")),
    None,
)
LONG_IDS = {f"long{n}" for n in range(LONG)}


def sequence(number: int) -> str:
    """Over the limit, and it does not compress to little."""
    return "".join(random.Random(number).choices("ACGT", k=2000))


UNMENDABLE = dict.fromkeys(
    ("malformed", "empty_id", "empty_sequence", "id_too_long", "invalid_nucleotides", "null_value"), 1
)
MENDABLE_IDS = {"large", "wide", "newer", f"q{KILLS}"}


class Newer:
    """A schema that a registry does not have yet, and a record that was written with it all the same."""

    def __init__(self, registry: ApicurioRegistry, name: str) -> None:
        self._url, self._subject = registry.url, f"{name}-value"
        fields = json.loads(schema_json("sequence_record"))
        extra = {"name": f"extra_{name.replace('-', '_')}", "type": ["null", "long"], "default": None}
        self._schema = json.dumps(fields | {"fields": [*fields["fields"], extra]})
        placeholder = json.dumps({"type": "fixed", "size": 1, "name": f"before_{name.replace('-', '_')}"})
        self._id = self._registered(f"{name}-before", placeholder) + 1
        body = encode_record(SequenceRecord("newer", "ACGT"))[10:] + b"\x00"
        self.value = b"\x00" + self._id.to_bytes(4, "big") + body

    def register(self) -> None:
        assert self._registered(self._subject, self._schema) == self._id

    def _registered(self, subject: str, schema: str) -> int:
        with SchemaRegistryClient({"url": self._url}) as client:
            return client.register_schema(subject, Schema(schema, "AVRO"))


def add_every_other_reason(job: Job, newer: Newer, folder: Path, **variables: str) -> None:
    """Dead letters of the reasons that `letters` has not: of limits, of a schema, of a record that kills."""
    limits = {"VIRNUCPRO_MAX_MESSAGE_BYTES": "25000", "NOOP_BASES_PER_FRAME": "10"}
    records = [
        SequenceRecord("", "ACGT"),
        SequenceRecord("i" * 1001, "ACGT"),
        SequenceRecord("large", "ACGT" * 7000),
        SequenceRecord("wide", "ACGT" * 5000),
        SequenceRecord(f"q{KILLS}", "ACGT"),
    ]
    admin.configure_topic(job.bootstrap, f"{job.name}.out", "max.message.bytes", "3000")
    done = job.committed()
    values = [*map(encode_record, records), newer.value]
    produce(job.bootstrap, ({"value": v, "key": b"k", "partition": 0} for v in values), f"{job.name}.in")
    for number in range(4):
        log = folder / f"reasons{number}.log"
        with serving(log, kind=NoopServe, **job.worker(0), **limits, **variables) as serve:
            wait_until(
                lambda: serve.process.poll() is not None or job.committed() == done + len(values), "an end"
            )
            if serve.process.poll() is None:
                assert serve.stop() == 0
                break
    assert number == 3, "it has died three times"


@pytest.fixture
def letters(job: Job, tmp_path, monkeypatch) -> Job:
    """A job whose input was read under a limit that is too low: 30 records over it, and five that are bad anyway."""
    for name, value in job.variables.items():
        monkeypatch.setenv(name, value)
    long = [encode_record(SequenceRecord(f"long{n}", sequence(n))) for n in range(LONG)]
    fails = encode_record(SequenceRecord(f"x{FAILS}", "ACGT"))
    with serving(tmp_path / "first.log", kind=NoopServe, **job.worker(0), **SHORT_LIMIT) as serve:
        values = [*long[:15], *BAD, fails, *long[15:]]
        headers = [("trace", b"1"), ("trace", None)]
        produce(
            job.bootstrap, ({"value": v, "key": b"k", "headers": headers} for v in values), f"{job.name}.in"
        )
        job.finish(len(values))
        assert serve.stop() == 0
    return job


def replayed(capsys, *options: str, code: int = 0) -> dict[str, Any]:
    assert run(["dlq", "replay", "--json", *options]) == code
    counts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return counts


def start_replay(job: Job, *options: str, **variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "consumer.cli.app", "dlq", "replay", "--json", *options],
        cwd=ROOT,
        env=environment(**job.variables, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def sent(job: Job) -> Counter[str]:
    """Ids of what was replayed into the input topic, as a reader of committed messages sees them."""
    again = [m for m in job.read_all("in") if "vnp-dlq-replays" in dict(m.headers() or ())]
    return Counter(json.dumps(m.value().decode(errors="replace")) for m in again)


def predictions(job: Job) -> Counter[str]:
    return Counter(decode_prediction(message.value()).id for message in job.read_all("out"))


def answered(job: Job) -> tuple[int, int]:
    """Predictions and dead letters."""
    return len(job.read_all("out")), len(job.read_all("dlq"))


def test_bad_records_of_every_reason_are_inspected_mended_and_replayed_once_with_a_kill_in_between(
    letters, registry, tmp_path, capsys, monkeypatch
):
    newer, known = Newer(registry, letters.name), {"VIRNUCPRO_SCHEMA_REGISTRY_URL": registry.url}
    known |= {"VIRNUCPRO_OUTPUT_FRAMING": "single_object"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    add_every_other_reason(letters, newer, tmp_path, **known)
    assert run(["dlq", "inspect", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    mendable = (
        "unknown_schema",
        "message_too_large",
        "prediction_too_large",
        "inference_failed",
        "quarantined",
    )
    reasons = Counter(sequence_too_long=LONG) + Counter(UNMENDABLE) + Counter(mendable)
    assert Counter(line["reason"] for line in lines) == reasons
    assert reasons.keys() == {reason.value for reason in Reason if reason is not Reason.UNKNOWN}
    decoded = {line["record"]["id"]: line["record"] for line in lines if line["record"]}
    assert decoded.keys() == LONG_IDS | MENDABLE_IDS - {"newer"} | {f"x{FAILS}"}
    assert decoded["long3"]["sequence"] == sequence(3)
    assert not any(line["replayed"] for line in lines)

    newer.register()
    admin.configure_topic(letters.bootstrap, f"{letters.name}.out", "max.message.bytes", "100000")
    dry = replayed(capsys, "--dry-run")
    assert (dry["replayed"], dry["skipped"]) == (LONG + len(mendable), UNMENDABLE)
    assert sent(letters) == Counter(), "a dry run sends nothing"

    process = start_replay(letters, "--rate", "8", "--reason", "sequence_too_long", **known)
    try:
        wait_until(lambda: len(sent(letters)) > 4, "a part is replayed")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    part = len(sent(letters))
    assert 4 < part < LONG

    with serving(tmp_path / "second.log", kind=NoopServe, **letters.worker(0), **known) as serve:
        assert replayed(capsys, "--reason", "sequence_too_long", "--max", "3")["replayed"] == 3
        model_aside = [
            f"--reason={reason}" for reason in reasons if reason not in {"inference_failed", "quarantined"}
        ]
        counts = replayed(capsys, *model_aside)
        assert counts["replayed"] == LONG + 3 - part - 3
        assert counts["skipped"] == UNMENDABLE
        assert set(sent(letters).values()) == {1}
        letters_before = LONG + 11
        wait_until(
            lambda: answered(letters) == (LONG + 3, letters_before), "the replayed records are answered"
        )
        # The record that the model cannot take comes back, each time with its count.
        for number in (1, 2):
            back = replayed(capsys, "--reason", "inference_failed", "--max-replays", "2")
            assert (back["replayed"], back["exhausted"]) == (1, 0)
            wait_until(lambda n=number: answered(letters) == (LONG + 3, letters_before + n), "it comes back")
        back = replayed(capsys, "--reason", "inference_failed", "--max-replays", "2")
        assert (back["replayed"], back["exhausted"]) == (0, 1)
        assert serve.stop() == 0
    with serving(
        tmp_path / "third.log", kind=NoopServe, **letters.worker(0), **known, NOOP_MENDED="1"
    ) as serve:
        counts = replayed(capsys)
        assert (counts["replayed"], counts["skipped"], counts["exhausted"]) == (2, UNMENDABLE, 0)
        wait_until(lambda: answered(letters) == (LONG + 5, letters_before + 2), "the model takes them now")
        assert serve.stop() == 0
    assert predictions(letters) == Counter(LONG_IDS | MENDABLE_IDS | {f"x{FAILS}"})
    again = [m for m in letters.read_all("in") if "vnp-dlq-replays" in dict(m.headers() or ())]
    assert all(m.key() == b"k" for m in again)
    assert sum(m.headers()[:2] == [("trace", b"1"), ("trace", None)] for m in again) == LONG + 3

    assert run(["dlq", "inspect", "--open", "--json"]) == 0
    still = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert Counter(line["reason"] for line in still) == Counter(UNMENDABLE)


def test_a_second_replay_ends_the_first_and_nothing_is_sent_twice(letters, capsys):
    first = start_replay(letters, "--rate", "4")
    try:
        wait_until(lambda: len(sent(letters)) > 2, "a part is replayed")
        part = len(sent(letters))
        counts = replayed(capsys)
        _, said = first.communicate(timeout=60)
    finally:
        first.kill()
        first.wait()
    assert first.returncode == ExitCode.KAFKA_FATAL, said
    assert b"another one of its group has begun" in said
    assert b"Traceback" not in said
    assert counts["replayed"] <= LONG + 1 - part
    assert len(sent(letters)) == LONG + 1
    assert set(sent(letters).values()) == {1}


def test_force_sends_what_would_fail_again_and_what_is_closed_is_not_looked_at(letters, capsys):
    assert replayed(capsys, "--reason", "malformed", "--force")["replayed"] == 1
    assert sent(letters) == Counter([json.dumps("not a record")])
    counts = replayed(capsys, "--close-skipped")
    assert sum(counts["skipped"].values()) == 3
    after = replayed(capsys)
    assert (after["replayed"], after["skipped"]) == (0, {})


def test_filters_by_source_and_time_and_the_file_of_an_export(letters, tmp_path, capsys):
    (message, *_) = [m for m in letters.read_all("in") if m.value() == b"not a record"]
    place = f"{message.topic()}/{message.partition()}/{message.offset()}"
    out = tmp_path / "letters.jsonl"
    assert run(["dlq", "export", str(out), "--source", place]) == 0
    (line,) = map(json.loads, out.read_text().splitlines())
    assert (line["reason"], line["source_offset"], line["record"]) == ("malformed", message.offset(), None)
    assert run(["dlq", "export", str(out), "--until", "1d"]) == 0
    assert out.read_text() == ""
    assert run(["dlq", "export", str(out), "--since", "1h", "--source", f"{letters.name}.in"]) == 0
    assert len(out.read_text().splitlines()) == LONG + 5
    capsys.readouterr()
    assert run(["dlq", "inspect", "--reason", "empty_sequence"]) == 0
    *_, row, summary = capsys.readouterr().out.splitlines()
    assert "the sequence is empty" in row
    assert summary == "1 dead letters, 1 empty_sequence"


def test_a_record_that_the_input_topic_takes_no_more_fails_alone_and_stays_open(letters, capsys):
    admin.configure_topic(letters.bootstrap, f"{letters.name}.in", "max.message.bytes", "400")
    counts = replayed(capsys, "--reason", "sequence_too_long", "--reason", "inference_failed", code=1)
    assert (counts["replayed"], counts["failed"]) == (1, LONG)
    admin.configure_topic(letters.bootstrap, f"{letters.name}.in", "max.message.bytes", "100000")
    assert replayed(capsys, "--reason", "sequence_too_long")["replayed"] == LONG
    assert set(sent(letters).values()) == {1}
