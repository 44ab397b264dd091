"""`virnucpro publish --wait`: a file in, its predictions out, and what has none is named. On the embedded broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consumer.cli.app import run
from schemas import SequenceRecord, encode_record
from tests.support.harness import NoopServe, produce, serving
from tests.support.noop_service import FAILS

IDS = [f"r{n}" for n in range(40)]


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve") / "serve.log", kind=NoopServe) as running:
        yield running


def fasta(folder: Path, *ids: str) -> str:
    path = folder / "in.fasta"
    path.write_text("".join(f">{each}\nACGTACGT\n" for each in ids))
    return str(path)


def test_the_predictions_of_a_file_come_in_its_order_and_those_of_others_do_not(serve, tmp_path, capsys):
    produce(serve.bootstrap, [{"value": encode_record(SequenceRecord("another", "ACGT"))}])
    out = tmp_path / "out.jsonl"
    command = ["publish", fasta(tmp_path, *IDS, "r0"), "--bootstrap", serve.bootstrap, "--wait"]
    assert run([*command, "--format", "jsonl", "-o", str(out)]) == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [*IDS, "r0"]
    assert f"41 of 41 records have their prediction, written to {out}" in capsys.readouterr().err
    assert run([*command, "--key", "none"]) == 0
    assert [row.split("\t")[0] for row in capsys.readouterr().out.splitlines()] == ["id", *IDS, "r0"]


def test_a_record_that_has_a_dead_letter_is_named_and_the_others_are_written(serve, tmp_path, capsys):
    path = fasta(tmp_path, "a", f"x{FAILS}", "b")
    assert run(["publish", path, "--bootstrap", serve.bootstrap, "--wait"]) == 1
    out, err = capsys.readouterr()
    assert [row.split("\t")[0] for row in out.splitlines()] == ["id", "a", "b"]
    assert f"record 'x{FAILS}' has no prediction: dead letter, inference_failed" in err
    assert err.splitlines()[-1].startswith("virnucpro: error: 1 of 3 records have no prediction")


def test_what_has_no_answer_before_the_deadline_is_named(serve, tmp_path, capsys):
    path = fasta(tmp_path, "a", "b")
    # Topics for answers where none come.
    command = ["publish", path, "--bootstrap", serve.bootstrap, "--topic", "sequences.dlq", "--wait"]
    assert run([*command, "--deadline", "0.5"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [out.splitlines()[0]]
    assert err.count("has no prediction: no answer, sequences.dlq/") == 2
    assert "0 of 2 records have their prediction" in err


def test_options_that_do_not_go_together(tmp_path, capsys):
    path = fasta(tmp_path, "a")
    without_wait = ["-o", "x"], ["--format", "tsv"]
    for options in (["--wait", "--resume", "x"], *without_wait, ["--wait", "--format", "virnucpro"]):
        assert run(["publish", path, "--bootstrap", "127.0.0.1:1", *options]) == 2
        assert capsys.readouterr().err.startswith("virnucpro: error: ")
