"""`virnucpro topics` on a real broker: creates, alters, says what it cannot alter, and changes nothing in a check."""

from __future__ import annotations

import json
import uuid

import pytest

from consumer.cli.app import run
from tests.support.harness import NoopServe, serving, wait_until
from tests.support.kafka import admin


@pytest.fixture
def names(broker, monkeypatch) -> dict[str, str]:
    """Topics that do not exist, named by the environment of a command."""
    job = f"topics-{uuid.uuid4().hex[:8]}"
    variables = {
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "VIRNUCPRO_INPUT_TOPIC": f"{job}.in",
        "VIRNUCPRO_OUTPUT_TOPIC": f"{job}.out",
        "VIRNUCPRO_DLQ_TOPIC": f"{job}.dlq",
        "VIRNUCPRO_GROUP_ID": job,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def as_json(capsys, *arguments: str, code: int = 0) -> dict[str, list[dict[str, str]]]:
    assert run(["topics", *arguments, "--json"]) == code
    parsed: dict[str, list[dict[str, str]]] = json.loads(capsys.readouterr().out)
    return parsed


def test_from_nothing_to_topics_that_the_service_takes_without_a_complaint(names, capsys, tmp_path):
    assert [each["change"] for each in as_json(capsys, "check", code=1)["differences"]] == ["create"] * 3
    assert len(as_json(capsys, "ensure", "--partitions", "3", "--dry-run")["mended"]) == 3
    assert len(as_json(capsys, "check", code=1)["differences"]) == 3, "a dry run changes nothing"
    assert len(as_json(capsys, "ensure", "--partitions", "3")["mended"]) == 3
    assert as_json(capsys, "check", "--partitions", "3")["differences"] == []
    assert as_json(capsys, "ensure")["mended"] == []
    shown = as_json(capsys, "describe")["topics"]
    assert {topic["partitions"] for topic in shown.values()} == {3}  # type: ignore[attr-defined]
    with serving(tmp_path / "serve.log", kind=NoopServe, **names) as serve:
        assert serve.stop() == 0
    assert "topic_differs" not in (tmp_path / "serve.log").read_text()


def test_what_differs_is_altered_and_what_cannot_be_is_said(names, broker, capsys, tmp_path):
    broker.create_topics({names["VIRNUCPRO_INPUT_TOPIC"]: 4, names["VIRNUCPRO_OUTPUT_TOPIC"]: 2})
    broker.create_topics({names["VIRNUCPRO_DLQ_TOPIC"]: 6})
    admin.configure_topic(
        broker.bootstrap_servers, names["VIRNUCPRO_DLQ_TOPIC"], "cleanup.policy", "compact,delete"
    )
    wait_until(lambda: None not in as_json(capsys, "describe")["topics"].values(), "topics shown")  # type: ignore[attr-defined]
    said = as_json(capsys, "ensure", "--retention-hours", "48", code=1)
    mended = {(each["topic"].rpartition(".")[2], each["setting"]) for each in said["mended"]}
    assert mended == {
        ("in", "retention.ms"),
        ("in", "max.message.bytes"),
        ("out", "partitions"),
        ("out", "retention.ms"),
        ("out", "max.message.bytes"),
        ("dlq", "retention.ms"),
        ("dlq", "max.message.bytes"),
        ("dlq", "cleanup.policy"),
    }
    assert [each["setting"] for each in said["left"]] == ["partitions"]
    again = as_json(capsys, "ensure", "--retention-hours", "48", code=1)
    assert (again["mended"], again["left"]) == ([], said["left"])
    shown = as_json(capsys, "describe")["topics"]
    out = shown[names["VIRNUCPRO_OUTPUT_TOPIC"]]  # type: ignore[call-overload]
    assert (out["partitions"], out["config"]["retention.ms"]) == (4, "172800000")
    with serving(tmp_path / "serve.log", kind=NoopServe, **names) as serve:
        assert serve.stop() == 0
    lines = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines()]
    told = [(line["setting"], line["cure"]) for line in lines if line["event"] == "topic_differs"]
    assert [setting for setting, _ in told] == ["partitions"]
    assert "Kafka removes no partition" in told[0][1]


def test_for_people_each_difference_is_a_line_and_the_command_that_mends_it_is_named(names, capsys):
    assert run(["topics", "check"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" does")[2] for line in lines] == [" not exist"] * 3
    assert "topics ensure` with the same settings" in last
    assert run(["topics", "ensure"]) == 0
    assert capsys.readouterr().out.count("created with 4 partitions") == 3
    assert run(["topics", "check"]) == 0


def test_what_the_broker_refuses_is_one_line(names, capsys):
    assert run(["topics", "ensure", "--replication", "3"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("virnucpro: error: the broker refuses to mend")
    assert "replication" in line.lower()
