"""`virnucpro watch` on the embedded broker: what it shows, when it ends, and with which exit code."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from confluent_kafka import Producer
from rich.console import Console

from consumer.cli.app import run
from consumer.cli.output.table import WatchTable
from consumer.kafka.embedded import EmbeddedBroker
from schemas import (
    ChunkPrediction,
    DeadLetter,
    FrameScore,
    Prediction,
    Reason,
    Verdict,
    encode_dead_letter,
    encode_prediction,
)
from tests.support.factories import STAMP

PROVENANCE = replace(STAMP, source_topic="sequences", source_partition=1, source_offset=7)


def prediction(record_id: str, virus: float = 0.9) -> Prediction:
    verdict = Verdict.VIRUS if virus >= 0.5 else Verdict.OTHERS
    chunk = ChunkPrediction(f"{record_id}_chunk_1", 0, 9, verdict, (FrameScore("F1", 1 - virus, virus),))
    return Prediction(record_id, 9, verdict, virus, 1 - virus, (chunk,), PROVENANCE)


LETTER = DeadLetter(
    reason=Reason.MALFORMED,
    detail="it is empty",
    stage="decode",
    value=b"\xff\x00",
    key=b"bad",
    truncated=False,
    value_sha256=None,
    source_topic="sequences",
    source_partition=0,
    source_offset=3,
    source_timestamp_ms=None,
    group_id="virnucpro",
    attempts=1,
    software_version="0.1.0",
    failed_at_ms=1,
)


@pytest.fixture
def broker(monkeypatch) -> Iterator[str]:
    monkeypatch.delenv("VIRNUCPRO_OUTPUT_TOPIC", raising=False)
    with EmbeddedBroker({"predictions": 2, "sequences.dlq": 1}) as running:
        monkeypatch.setenv("VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS", running.bootstrap_servers)
        yield running.bootstrap_servers


def send(broker: str, topic: str, *values: bytes, key: bytes = b"k", partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 0})
    for value in values:
        producer.produce(
            topic, value, key, partition, headers=[("vnp-source", b"sequences/1/7"), ("x", b"\xff")]
        )
    assert producer.flush(10) == 0


def test_json_lines_hold_the_whole_prediction_and_where_it_was_found(broker, capsys):
    send(broker, "predictions", encode_prediction(prediction("r1")), partition=1)
    assert run(["watch", "--json", "--count", "1"]) == 0
    (text,) = capsys.readouterr().out.splitlines()
    line = json.loads(text)
    kafka = line.pop("kafka")
    assert kafka.pop("timestamp_ms") > 1_600_000_000_000
    assert kafka == {
        "topic": "predictions",
        "partition": 1,
        "offset": 0,
        "key": "k",
        "headers": [["vnp-source", "sequences/1/7"], ["x", {"base64": "/w=="}]],
    }
    assert line["type"] == "prediction"
    assert (line["id"], line["length"], line["verdict"], line["virus_score"]) == ("r1", 9, "virus", 0.9)
    assert line["chunks"][0]["frames"] == [{"frame": "F1", "others": 0.1, "virus": 0.9}]
    assert line["provenance"]["model_id"] == "nano"
    assert line["provenance"]["source_offset"] == 7


def test_dead_letters_only_when_asked_for(broker, capsys):
    send(broker, "predictions", encode_prediction(prediction("r1")))
    send(broker, "sequences.dlq", encode_dead_letter(LETTER))
    assert run(["watch", "--json", "--until-idle", "1"]) == 0
    assert [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()] == ["prediction"]
    assert run(["watch", "--json", "--dlq", "--count", "2"]) == 0
    lines = {line["type"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert lines.keys() == {"prediction", "dead_letter"}
    letter = lines["dead_letter"]
    assert (letter["reason"], letter["stage"], letter["key"]) == ("malformed", "decode", "bad")
    assert base64.b64decode(letter["value"]["base64"]) == b"\xff\x00"


def test_the_dead_letter_topic_alone(broker, capsys):
    send(broker, "sequences.dlq", encode_dead_letter(LETTER))
    assert run(["watch", "--json", "--topic", "sequences.dlq", "--count", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "dead_letter"


def test_watching_again_shows_everything_again(broker, capsys):
    send(broker, "predictions", *(encode_prediction(prediction(f"r{n}")) for n in range(3)))
    for _ in range(2):
        assert run(["watch", "--json", "--count", "3"]) == 0
        assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["r0", "r1", "r2"]


def test_from_now_shows_nothing_old(broker, capsys):
    send(broker, "predictions", encode_prediction(prediction("old")))
    assert run(["watch", "--json", "--from", "now", "--until-idle", "0.5"]) == 0
    assert capsys.readouterr().out == ""


def test_a_count_that_is_not_reached_is_exit_code_1(broker, capsys):
    send(broker, "predictions", encode_prediction(prediction("r1")))
    assert run(["watch", "--json", "--count", "2", "--until-idle", "0.5"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert err.splitlines()[0] == "1 predictions, 1 virus"
    assert err.splitlines()[1].startswith("virnucpro: error: 1 of 2 messages")


def shown(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """Ids in the table of `predict`, as `watch` writes it."""
    assert run(["watch", "--until-end", "--format", "tsv", *options]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("id\tlength\tverdict")
    return [row.split("\t")[0] for row in rows]


def test_filters_by_verdict_score_and_id(broker, capsys):
    scores = {"a1": 0.95, "a2": 0.6, "b1": 0.2, "b2": 0.99}
    send(broker, "predictions", *(encode_prediction(prediction(*each)) for each in scores.items()))
    assert shown(capsys) == ["a1", "a2", "b1", "b2"]
    assert shown(capsys, "--verdict", "virus") == ["a1", "a2", "b2"]
    assert shown(capsys, "--verdict", "virus", "--verdict", "others") == ["a1", "a2", "b1", "b2"]
    assert shown(capsys, "--min-score", "0.95") == ["a1", "b2"]
    assert shown(capsys, "--id", "b*", "--verdict", "virus") == ["b2"]
    assert shown(capsys, "--id", "?2", "--min-score", "0.1") == ["a2", "b2"]


def test_since_a_time_and_no_further_than_the_end(broker, capsys):
    now = time.time_ns() // 1_000_000
    producer = Producer({"bootstrap.servers": broker})
    for record_id, hours in (("old", 5), ("new", 1)):
        value = encode_prediction(prediction(record_id))
        producer.produce("predictions", value=value, partition=0, timestamp=now - hours * 3_600_000)
    assert producer.flush(10) == 0
    assert shown(capsys, "--since", "2h") == ["new"]
    assert shown(capsys, "--since", "6h") == ["old", "new"]
    assert run(["watch", "--since", "soon"]) == 2
    assert "is not a time" in capsys.readouterr().err


def test_the_outputs_of_predict_in_a_file_that_appears_when_it_is_complete(broker, capsys, tmp_path):
    send(
        broker, "predictions", encode_prediction(prediction("r1")), encode_prediction(prediction("r2", 0.25))
    )
    send(broker, "sequences.dlq", encode_dead_letter(LETTER))
    out = tmp_path / "out.jsonl"
    assert run(["watch", "-o", str(out)]) == 2
    assert "--until-end" in capsys.readouterr().err
    assert run(["watch", "--until-end", "--dlq", "--format", "jsonl", "-o", str(out)]) == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["r1", "r2"]
    err = capsys.readouterr().err
    assert "bad is a dead letter: malformed" in err
    assert err.splitlines()[-1] == "2 predictions, 1 others, 1 virus, 1 dead letters"
    assert run(["watch", "--until-end", "--format", "virnucpro", "-o", str(tmp_path / "both")]) == 0
    assert {path.name for path in (tmp_path / "both").iterdir()} == {
        "prediction_results.txt",
        "prediction_results_highestscore.csv",
    }


def test_a_message_that_cannot_be_read_is_told_and_passed_over(broker, capsys):
    send(broker, "predictions", b"nonsense", encode_prediction(prediction("r1")))
    assert run(["watch", "--json", "--count", "1"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["id"] == "r1"
    assert err.startswith("virnucpro: predictions/0/0 is skipped")


def test_the_table_has_a_row_for_each_message_and_the_sum(broker, capsys):
    send(
        broker, "predictions", encode_prediction(prediction("r1")), encode_prediction(prediction("r2", 0.25))
    )
    send(broker, "sequences.dlq", encode_dead_letter(LETTER))
    assert run(["watch", "--dlq", "--until-idle", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines}
    assert rows["record"][:5] == ["record", "length", "verdict", "call", "score"]
    assert rows["r1"] == ["r1", "9", "virus", "0.900", "1", "of", "1", "predictions/0/0"]
    assert rows["r2"] == ["r2", "9", "others", "0.750", "0", "of", "1", "predictions/0/1"]
    assert "malformed: it is empty" in " ".join(rows["bad"])
    assert lines[-1] == "2 predictions, 1 others, 1 virus, 1 dead letters"


def test_rows_fit_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    with WatchTable(console) as table:
        table.prediction(_Found(), prediction("a_very_long_record_name_" * 5), ())
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    rows = [row for line in text.splitlines() for row in line.split("\r") if "a_very" in row]
    assert rows
    assert all(len(row) <= 60 for row in rows)


def test_what_publishers_wrote_cannot_act_on_the_terminal():
    harmful = "x\x1b[2J\x1b]52;c;cm0=\x07\x9b2J\u202e\nrow\rVIRUS"
    console = Console(file=io.StringIO(), force_terminal=True, width=300, color_system=None)
    letter = replace(LETTER, detail=harmful, key=harmful.encode())
    with WatchTable(console) as table:
        table.prediction(_Found(), prediction(harmful[:12]), ())
        table.prediction(_Found(), prediction(harmful[12:]), ())
        table.dead_letter(_Found(), letter, ())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for code in ("\x1b[2J", "\x1b]52", "\x07", "\x9b", "\u202e", "\nrow", "\rVIRUS"):
        assert code not in text
    assert r"malformed: x\u001b[2J\u001b]52;c;cm0=\u0007\u009b2J\u202e\nrow\rVIRUS" in text


class _Found:
    """As much of a Kafka message as the table looks at."""

    def topic(self) -> str:
        return "predictions"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 5


def test_a_missing_topic_and_a_missing_broker(broker, capsys):
    assert run(["watch", "--topic", "nowhere"]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
    began_at = time.monotonic()
    assert run(["watch", "--bootstrap", "127.0.0.1:1", "--timeout", "0.5"]) == 1
    assert time.monotonic() - began_at < 10
    (line,) = capsys.readouterr().err.splitlines()
    assert "127.0.0.1:1" in line
