"""The names of the fields in what commands print with --json: programs go by them. More may be added, at any place."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from types import SimpleNamespace

import pytest
import typer

from consumer.cli.app import app, run
from consumer.cli.commands.topics import _described, _plain
from consumer.cli.dlq.letter_table import letter_json
from consumer.cli.dlq.letters import FoundLetter
from consumer.cli.dlq.replay import Counts
from consumer.cli.output.json_lines import prediction_json
from consumer.kafka.topic_plan import Difference, FoundTopic
from consumer.types import NotNow
from schemas import DeadLetter, Prediction
from tests.support.harness import ROOT
from tests.support.messages import LETTER, PREDICTION

PRINTED = {
    "version": {"virnucpro-stream", "python", "system", "torch", "fair-esm", "confluent-kafka", "fastavro"},
    "schemas list": {"name", "version", "versions", "fingerprint", "compatibility", "topic", "subject"},
    "schemas show prediction": {"name", "version", "fingerprint", "schema"},
    "schemas check": {"ok", "problems", "subjects"},
    "models list": {"models"},
    "models show nano": {"id", "description", "expected_length", "files", "licence", "sha256", "path"},
    "frames {fasta}": {"record", "chunk", "frame", "protein", "nucleotides"},
}
"""Commands that need neither a broker nor a model, and fields of their objects."""
ELSEWHERE = {
    "predict": "tests/integration/test_main_job.py::test_predict_gives_the_same_scores_bit_for_bit",
    "evaluate": "tests/integration/test_cli_evaluate.py",
    "calibrate": "tests/integration/test_cli_calibrate.py::test_the_report_is_printed_as_json",
    "devices": "tests/integration/test_cli_devices.py",
    "divergence": "tests/integration/test_prediction_divergence.py",
    "train-head": "tests/integration/test_cli_heads.py",
    "models verify": "tests/integration/test_verification.py::test_verify_of_a_model_for_300_bases_as_json",
    "schemas register": "tests/integration/test_schema_registry.py",
    "topics check": "tests/kafka/test_topics_command.py",
    "topics ensure": "tests/kafka/test_topics_command.py",
    "topics describe": "tests/kafka/test_topics_command.py",
    "dlq inspect": "tests/kafka/test_dead_letter_commands.py",
    "dlq replay": "tests/kafka/test_dead_letter_commands.py",
    "watch": "tests/integration/test_cli_watch.py::test_json_lines_hold_the_whole_prediction_and_where_it_was_found",
}
"""All others, and where each is run."""
MESSAGE = SimpleNamespace(
    topic=lambda: "t", partition=lambda: 0, offset=lambda: 1, timestamp=lambda: (1, 2), key=lambda: b"k"
)
KAFKA = {"topic", "partition", "offset", "timestamp_ms", "key", "headers"}


def commands_with_json(group: typer.core.TyperGroup, path: str = "") -> set[str]:
    found = set()
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            found |= commands_with_json(command, f"{path}{name} ")
        elif any("--json" in option.opts for option in command.params):
            found.add(path + name)
    return found


def test_every_command_that_prints_json_is_listed_here():
    here = {
        command.partition(" {")[0].removesuffix(" prediction").removesuffix(" nano") for command in PRINTED
    }
    whole = typer.main.get_command(app)
    assert isinstance(whole, typer.core.TyperGroup)
    assert commands_with_json(whole) == here | ELSEWHERE.keys()
    for command, test in ELSEWHERE.items():
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text()
        assert command.split()[0] in text
        assert f"def {name}" in text


@pytest.mark.parametrize("command", PRINTED)
def test_what_is_printed_has_the_fields_that_it_had(command, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("VIRNUCPRO_SCHEMA_REGISTRY_URL", raising=False)
    fasta = tmp_path / "a.fasta"
    fasta.write_text(">a\n" + "ACGTTGCA" * 9 + "\n")
    assert run([*command.format(fasta=fasta).split(), "--json"]) == 0
    out = capsys.readouterr().out
    parsed = json.loads(out.splitlines()[0] if command.startswith("frames") else out)
    for each in parsed if isinstance(parsed, list) else [parsed]:
        assert each.keys() >= PRINTED[command]


def test_a_line_of_watch_and_of_the_dead_letters_has_the_fields_of_its_message():
    line = prediction_json(MESSAGE, PREDICTION, ())
    assert list(line) == ["type", *(field.name for field in fields(Prediction)), "kafka"]
    assert line["kafka"].keys() == KAFKA
    found = letter_json(FoundLetter(MESSAGE, LETTER, ()), lambda _: NotNow("later"), replayed=False)
    own = [field.name for field in fields(DeadLetter)]
    assert list(found) == ["type", *own, "kafka", "record", "replays", "replayed"]
    assert found["kafka"].keys() == KAFKA


def test_the_counts_of_a_replay_and_the_lines_of_topics():
    assert Counts().as_json() == {"replayed": 0, "skipped": {}, "exhausted": 0, "failed": 0}
    difference = Difference("t", "partitions", "4", "8", "partitions")
    assert _plain([difference]) == [asdict(difference)]
    assert _plain([difference])[0].keys() == {"topic", "setting", "found", "wanted", "change", "cure"}
    shown = _described(FoundTopic("t", 4, 1, {"retention.ms": "1"}))
    assert shown == {"partitions": 4, "replication": 1, "config": {"retention.ms": "1"}}
