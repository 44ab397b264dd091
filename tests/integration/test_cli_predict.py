"""`virnucpro predict` with a tiny random bundle: what is written where, and what is left when it fails."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from consumer.cli.app import run
from consumer.cli.files import inputs
from consumer.cli.progress import Meter
from tests.support.models_fixture import random_bundle
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.errors import OutOfMemory
from virnucpro_core.heads.feature_reader import read_features
from virnucpro_core.models.engine import Engine
from virnucpro_core.sequence.prepare import prepare

SEQUENCES = {
    "long": "GCATTCGACCGA" * 60,
    "no_frame": "TAACTAACTAACTAA",
    "lower": "gcattcgaccgaa" * 30,
    "iupac": "GCANTTCGRCCGA" * 20,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(autouse=True)
def settings(monkeypatch, bundle):
    for name in [name for name in os.environ if name.startswith("VIRNUCPRO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VIRNUCPRO_MODEL", str(bundle.path))
    monkeypatch.setenv("VIRNUCPRO_DEVICE", "cpu")


@pytest.fixture
def fasta(tmp_path) -> Path:
    path = tmp_path / "reads.fasta"
    path.write_text("".join(f">{name} text\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    return path


def test_the_table_goes_to_stdout_and_the_summary_to_stderr(fasta, capsys):
    assert run(["predict", str(fasta)]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out), delimiter="\t"))
    assert [row["id"] for row in rows] == list(SEQUENCES)
    assert [int(row["length"]) for row in rows] == [len(sequence) for sequence in SEQUENCES.values()]
    assert rows[1]["verdict"] == "no_open_frame"
    assert rows[1]["virus_score"] == ""
    assert err.startswith("scored 4 records, ")
    assert "random-0 on cpu (fp32)" in err


def test_json_lines_hold_the_engines_own_scores(fasta, bundle, capsys):
    assert run(["predict", str(fasta), "--format", "jsonl"]) == 0
    lines = {line["id"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    engine = Engine(bundle, device="cpu", self_test=False)
    for name, sequence in SEQUENCES.items():
        frames = prepare(name, sequence, engine.expected_length, engine.tokenizer).frames
        printed = [(f["others"], f["virus"]) for chunk in lines[name]["chunks"] for f in chunk["frames"]]
        expected = engine.score(frames)
        assert expected.tolist() == [[_float32(score) for score in pair] for pair in printed]


def test_json_is_the_format_jsonl_and_no_other(fasta, capsys):
    assert run(["predict", str(fasta), "--format", "jsonl"]) == 0
    lines = capsys.readouterr().out
    for options in (["--json"], ["--json", "--format", "jsonl"]):
        assert run(["predict", str(fasta), *options]) == 0
        assert capsys.readouterr().out == lines
    assert run(["predict", str(fasta), "--json", "--format", "tsv"]) == 2
    assert "--json asks for --format jsonl, not tsv: leave one of them out" in error_line(capsys)


def _float32(score: float) -> float:
    return float(np.float32(score))


def test_the_originals_two_files_beside_the_input(fasta, tmp_path, capsys):
    assert run(["predict", str(fasta), "--format", "virnucpro"]) == 0
    assert capsys.readouterr().out == ""
    folder = tmp_path / "reads_merged"
    frames = (folder / "prediction_results.txt").read_text().splitlines()
    assert frames[0] == "Sequence_ID\tPrediction\tscore1\tscore2"
    assert frames[1].startswith("long_chunk_1F1\t")
    chunks = folder / "prediction_results_highestscore.csv"
    assert chunks.read_text().startswith("Modified_ID\tIs_Virus\tmax_score_0\tmax_score_1\niupac_chunk_1\t")
    assert run(["predict", str(fasta), "--format", "virnucpro-v1"]) == 0
    assert chunks.read_text().startswith("Modified_ID\tIs_Virus\niupac_chunk_1\t")


def test_a_record_that_cannot_be_scored_is_named_the_others_are_written(tmp_path, capsys, monkeypatch):
    path, output = tmp_path / "some.fasta", tmp_path / "some.tsv"
    path.write_text(f">good\nGCATTC\n>digits\nGC4\n>empty\n\n>long\n{'GCA' * 50}\n>good2\nGCAGCA\n")
    monkeypatch.setenv("VIRNUCPRO_MAX_SEQUENCE_BASES", "100")
    assert run(["predict", str(path), "--output", str(output)]) == 1
    ids = [row["id"] for row in csv.DictReader(output.read_text().splitlines(), delimiter="\t")]
    assert ids == ["good", "good2"]
    lines = capsys.readouterr().err.splitlines()
    assert "'digits' is left out: '4' at position 3" in lines[0]
    assert "'empty'" in lines[1]
    assert "VIRNUCPRO_MAX_SEQUENCE_BASES" in lines[2]
    assert lines[3].startswith("scored 2 records")
    assert lines[4].startswith("virnucpro: error: 3 records were left out")


@pytest.mark.parametrize(
    ("records", "is_told"), [(">p1\nMKVLAA\n>p2\nMEEPQS\n", True), (">p1\nMKVLAA\n>r1\nACGTTGCA\n", False)]
)
def test_a_file_of_proteins_is_told_what_to_give_instead(records, is_told, tmp_path, capsys):
    proteins = tmp_path / "proteins.faa"
    proteins.write_text(records)
    assert run(["predict", str(proteins)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("virnucpro: error: ")
    assert ("if these are proteins" in error) == is_told


def test_v1_attention_wins_over_the_variable_for_this_command_alone(fasta, bundle, capsys, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_V1_ATTENTION", "false")
    printed, expected = [], []
    for option, v1 in ((["--v1-attention"], True), ([], False)):
        assert run(["predict", str(fasta), "--format", "jsonl", *option]) == 0
        first = json.loads(capsys.readouterr().out.splitlines()[0])
        printed.append([f["virus"] for chunk in first["chunks"] for f in chunk["frames"]])
        engine = Engine(bundle, device="cpu", v1_attention=v1, self_test=False)
        frames = prepare("long", SEQUENCES["long"], engine.expected_length, engine.tokenizer).frames
        expected.append(engine.score(frames)[:, 1].tolist())
    assert [[_float32(score) for score in scores] for scores in printed] == expected
    assert expected[0] != expected[1]
    assert os.environ["VIRNUCPRO_V1_ATTENTION"] == "false"


def test_a_dash_is_standard_output(fasta, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["predict", str(fasta)]) == 0
    table = capsys.readouterr().out
    assert run(["predict", str(fasta), "-o", "-"]) == 0
    assert capsys.readouterr().out == table
    assert list(tmp_path.iterdir()) == [fasta]
    assert run(["predict", str(fasta), "--format", "virnucpro", "-o", "-"]) == 2
    assert "name a folder" in error_line(capsys)


def test_an_output_that_is_replaced_keeps_its_mode(fasta, tmp_path, capsys):
    output = tmp_path / "private.tsv"
    output.touch(0o600)
    assert run(["predict", str(fasta), "-o", str(output)]) == 0
    assert output.stat().st_mode & 0o777 == 0o600
    assert output.read_text().startswith("id\t")


def test_rna_gets_the_answer_of_its_dna_and_is_told_once(fasta, tmp_path, capsys):
    assert run(["predict", str(fasta), "--format", "jsonl"]) == 0
    dna = capsys.readouterr()
    rna = tmp_path / "rna.fasta"
    rna.write_text(
        "".join(
            f">{name}\n{sequence.replace('T', 'U').replace('t', 'u')}\n"
            for name, sequence in SEQUENCES.items()
        )
    )
    assert run(["predict", str(rna), "--format", "jsonl"]) == 0
    out, err = capsys.readouterr()
    assert out == dna.out
    assert err.count("records hold U, RNA: U was read as T (--keep-u") == 1
    assert err.startswith("virnucpro: 4 records hold U")
    assert "RNA" not in dna.err


def test_keep_u_is_the_originals_answer_by_option_and_by_variable(bundle, tmp_path, capsys, monkeypatch):
    path = tmp_path / "rna.fasta"
    path.write_text(f">r\n{'GCAUUCGACCGA' * 20}\n")
    assert run(["predict", str(path), "--format", "jsonl", "--keep-u"]) == 0
    out, err = capsys.readouterr()
    assert "1 record holds U, RNA: every codon with a U was dropped" in err
    engine = Engine(bundle, device="cpu", self_test=False)
    frames = prepare("r", "GCAUUCGACCGA" * 20, engine.expected_length, engine.tokenizer, keep_u=True).frames
    printed = [f["virus"] for chunk in json.loads(out)["chunks"] for f in chunk["frames"]]
    assert [_float32(score) for score in printed] == engine.score(frames)[:, 1].tolist()
    monkeypatch.setenv("VIRNUCPRO_KEEP_U", "yes")
    assert run(["predict", str(path), "--format", "jsonl"]) == 0
    assert capsys.readouterr().out == out


def test_a_long_record_is_scored_and_its_progress_shows_before_it_is_done(
    bundle, tmp_path, capsys, monkeypatch
):
    path = tmp_path / "long.fasta"
    sequence = "GCATTCGACCGA" * 1000
    path.write_text(f">genome\n{sequence}\n")
    monkeypatch.setenv("VIRNUCPRO_TOKEN_BUDGET", "2000")
    shown = []
    monkeypatch.setattr(Meter, "_show", lambda meter, bases: shown.append((meter.records, bases)))
    assert run(["predict", str(path)]) == 0
    assert f"genome\t{len(sequence)}\t" in capsys.readouterr().out
    before = [bases for records, bases in shown if records == 0]
    assert len(before) > 5
    assert before == sorted(before)
    assert before[-1] > 0.8 * len(sequence)


def test_a_model_on_the_command_line_wins_over_the_variable(fasta, tmp_path, capsys, monkeypatch):
    other = random_bundle(tmp_path / "other", seed=1)
    assert run(["predict", str(fasta), "--model", str(other.path)]) == 0
    assert "random-1" in capsys.readouterr().err


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("virnucpro: error: ")
    return line


def test_where_it_cannot_write(fasta, tmp_path, capsys):
    assert run(["predict", str(fasta), "--output", str(tmp_path / "no" / "x.tsv")]) == 1
    assert "does not exist" in error_line(capsys)
    assert run(["predict", str(fasta), "--output", str(tmp_path)]) == 1
    assert "is a folder" in error_line(capsys)
    assert run(["predict", str(fasta), "--format", "virnucpro", "--output", str(fasta)]) == 1
    assert "is a file" in error_line(capsys)
    assert run(["predict", "-", "--format", "virnucpro"]) == 2
    assert "--output" in error_line(capsys)


def test_a_model_and_a_device_that_are_not_there(fasta, capsys):
    assert run(["predict", str(fasta), "--model", "no-such-model"]) == 1
    assert "no-such-model" in error_line(capsys)
    assert run(["predict", str(fasta), "--device", "tpu"]) == 2
    assert "tpu" in error_line(capsys)
    assert run(["predict", str(fasta), "--attention-backend", "flash_attn"]) == 1
    assert "flash_attn" in error_line(capsys)


def test_damage_in_a_pipe_leaves_no_output(tmp_path, capsys):
    pipe, output = tmp_path / "pipe", tmp_path / "out.tsv"
    os.mkfifo(pipe)
    text = "".join(f">r{n}\n{'GCATTCGACCGA' * 40}\n" for n in range(200))
    writer = threading.Thread(target=lambda: pipe.write_bytes(gzip.compress(text.encode())[:-30]))
    writer.start()
    assert run(["predict", str(pipe), "--output", str(output)]) == 1
    writer.join()
    assert "truncated" in error_line(capsys)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("memory", [600, 200])
@pytest.mark.parametrize(("command", "computes"), [("predict", "score"), ("embed", "features")])
def test_a_frame_too_large_for_memory_costs_only_its_record(
    command, computes, memory, tmp_path, capsys, monkeypatch
):
    """The chunks of 500 bases have frames of 168 tokens, those of the other records fewer."""
    compute = getattr(Engine, computes)

    def within_memory(engine, frames):
        if sum(frame.tokens for frame in frames) > memory or any(frame.tokens > 150 for frame in frames):
            raise OutOfMemory("the device has no memory left")
        return compute(engine, frames)

    fasta = tmp_path / "reads.fasta"
    fasta.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    outputs = [tmp_path / name for name in ("all", "small")]
    assert run([command, str(fasta), "-o", str(outputs[0])]) == 0
    monkeypatch.setattr(Engine, computes, within_memory)
    capsys.readouterr()
    assert run([command, str(fasta), "-o", str(outputs[1])]) == 1
    err = capsys.readouterr().err
    assert "record 'long' is left out: one frame of this record does not fit into the device's memory" in err
    assert "1 records were left out" in err
    if command == "predict":
        everything, rest = (path.read_text().splitlines() for path in outputs)
        assert rest == [row for row in everything if not row.startswith("long")]
    else:
        found = read_features(outputs[1])
        assert list(found.record_ids) == ["no_frame", "lower", "iupac"]


@pytest.mark.parametrize("journal", [True, False], ids=["journal", "stdout"])
@pytest.mark.parametrize(
    ("after", "said"),
    [
        (
            ">a\nACGT\n",
            "error: the input has changed since it was read through: it had 2 records with 8 letters",
        ),
        (">a\nACGT\n>b\nACG\n", "and then 2 with 7; run the command again when nothing writes to it"),
        ("", "and then 0 with 0"),
    ],
    ids=["records", "letters", "empty"],
)
def test_an_input_that_changes_is_an_error(tmp_path, monkeypatch, capsys, after, said, journal):
    reads = tmp_path / "reads.fasta"
    reads.write_text(">a\nACGT\n>b\nACGT\n")
    counted = inputs.count_records

    def count_then_change(*arguments):
        size = counted(*arguments)
        reads.write_text(after)
        return size

    monkeypatch.setattr(inputs, "count_records", count_then_change)
    more = ["-o", str(tmp_path / "out.tsv")] if journal else ["--bed", str(tmp_path / "out.bed")]
    assert run(["predict", str(reads), *more]) == 1
    assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"reads.fasta", "out.tsv.journal"}


def test_an_input_that_is_gone_is_named(tmp_path, monkeypatch, capsys):
    reads = tmp_path / "reads.fasta"
    reads.write_text(">a\nACGT\n")
    monkeypatch.setattr(inputs, "count_records", lambda *_: reads.unlink())
    assert run(["predict", str(reads), "-o", str(tmp_path / "out.tsv")]) == 1
    assert f"cannot read or write {reads} (No such file or directory)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
