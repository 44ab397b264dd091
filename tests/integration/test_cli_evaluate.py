"""`virnucpro evaluate`: its report against what `predict` says of the same file, and every way to refuse."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import math
import os
import sys
from pathlib import Path

import pytest

from consumer.cli.app import run
from tests.support.harness import ROOT, virnucpro
from tests.support.models_fixture import random_bundle

SAMPLE = ROOT / "consumer/data/sample.fasta"
TRUTH = ROOT / "consumer/data/sample_truth.tsv"
PNG = ["by_group.png", "by_length.png", "calibration.png", "roc.png", "scores.png"]


def truth() -> list[dict[str, str]]:
    return list(csv.DictReader(TRUTH.read_text().splitlines(), delimiter="\t"))


def strict(text: str | bytes) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory) -> Path:
    """The sample's table with the first word of the organism as the group."""
    rows = truth()
    path = tmp_path_factory.mktemp("labels") / "grouped.tsv"
    lines = ["label\tgroup\tid", *(f"{r['label']}\t{r['organism'].split()[0]}\t{r['id']}" for r in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


# The bundled sample with the bundled model, by processes.


@pytest.fixture(scope="module")
def made(grouped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    done = virnucpro(
        *("evaluate", str(SAMPLE), "--labels", str(grouped), "--json"),
        *("--report", str(folder / "report.json"), "--plots", str(folder / "plots"), "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture(scope="module")
def predicted() -> list[dict]:
    done = virnucpro("predict", str(SAMPLE), "--format", "jsonl", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_printed_is_what_is_written(made):
    folder, done = made
    assert sorted(path.name for path in folder.iterdir()) == ["plots", "report.json"]
    assert strict(done.stdout) == strict((folder / "report.json").read_bytes())
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("evaluated 40 records, 95,420 bases, with the model nano-500 on cpu (fp32) in ")


def test_the_pictures_are_there(made):
    folder, _ = made
    assert sorted(path.name for path in (folder / "plots").iterdir()) == PNG
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (folder / "plots").iterdir())


def test_the_counts_and_shares_are_those_of_predict(made, predicted):
    report = strict(made[1].stdout)
    virus = {row["id"]: row["label"] == "virus" for row in truth()}
    chunks = [(chunk, virus[record["id"]]) for record in predicted for chunk in record["chunks"]]
    scored = [(chunk, label) for chunk, label in chunks if chunk["frames"]]
    assert (
        report["counts"]
        | {
            "records": len(predicted),
            "bases": sum(record["length"] for record in predicted),
            "records_without_open_frame": sum(r["verdict"] == "no_open_frame" for r in predicted),
            "chunks": len(chunks),
            "chunks_without_open_frame": len(chunks) - len(scored),
            "frames": sum(len(chunk["frames"]) for chunk, _ in chunks),
        }
        == report["counts"]
    )
    for label, name in ((True, "sensitivity"), (False, "specificity")):
        of_chunks = [(chunk["verdict"] == "virus") == label for chunk, known in scored if known == label]
        assert report["chunks"][name] == round(sum(of_chunks) / len(of_chunks), 4)
        of_records = [
            (record["verdict"] == "virus") == label
            for record in predicted
            if virus[record["id"]] == label and record["verdict"] != "no_open_frame"
        ]
        assert report["records_by_verdict"][name] == round(sum(of_records) / len(of_records), 4)


def test_the_auroc_is_that_of_predicts_scores(made, predicted):
    report = strict(made[1].stdout)
    virus = {row["id"]: row["label"] == "virus" for row in truth()}
    margins: dict[bool, list[float]] = {True: [], False: []}
    for record in predicted:
        for chunk in record["chunks"]:
            of_frames = [math.log(frame["virus"] / frame["others"]) for frame in chunk["frames"]]
            if of_frames:
                margins[virus[record["id"]]].append(max(of_frames) + min(of_frames))
    pairs = [high > low for high in margins[True] for low in margins[False]]
    assert report["chunks"]["auroc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-4)
    assert report["chunks"]["count"] == len(margins[True]) + len(margins[False])


def test_it_says_where_the_figures_come_from(made, grouped):
    report = strict(made[1].stdout)
    manifest = ROOT / "virnucpro_core/data/bundles/nano-500/manifest.json"
    assert report["model"]["id"] == "nano-500"
    assert report["model"]["sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert report["model"]["precision"] == "fp32"
    assert report["inputs"] == {
        "sequences": {"name": "sample.fasta", "sha256": hashlib.sha256(SAMPLE.read_bytes()).hexdigest()},
        "labels": {"name": "grouped.tsv", "sha256": hashlib.sha256(grouped.read_bytes()).hexdigest()},
    }
    assert report["by_group"]["Salmonella (others)"]["records"] >= 1


def test_without_matplotlib_pictures_are_refused_before_the_model_is_loaded(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    done = virnucpro(
        *("evaluate", str(SAMPLE), "--labels", str(TRUTH), "--plots", str(tmp_path / "plots")),
        *("--model", "no-such-model"),
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert f"{sys.executable} -m pip install matplotlib" in line
    assert not (tmp_path / "plots").exists()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture
def files(tmp_path, monkeypatch, bundle) -> Path:
    """A folder with r.fasta, four records, and r.tsv, their labels; the model is tiny and random."""
    for name in [name for name in os.environ if name.startswith("VIRNUCPRO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VIRNUCPRO_MODEL", str(bundle))
    monkeypatch.setenv("VIRNUCPRO_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    records = {name: "GCATTCGACCGA" * count for name, count in (("a", 60), ("b", 30), ("c", 20), ("d", 10))}
    Path("r.fasta").write_text("".join(f">{name} text\n{letters}\n" for name, letters in records.items()))
    Path("r.tsv").write_text("id\tlabel\na\tvirus\nb\tothers\nc\tvirus\nd\tothers\n")
    return tmp_path


def evaluate(*options: str) -> int:
    return run(["evaluate", "r.fasta", "--labels", "r.tsv", *options])


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("virnucpro: error: ")
    return line


def test_a_table_for_people(files, capsys):
    assert evaluate("--report", "out.json") == 0
    out, err = capsys.readouterr()
    rows = {row[0]: row[1:] for row in (line.split("  ") for line in out.splitlines()) if row[0]}
    assert "random-0" in "".join(rows["model"])
    report = strict(Path("out.json").read_text())
    shown = f"{report['records_by_mean_margin']['auroc']:.3f}"
    assert shown in [cell.strip() for cell in rows["records, mean of their chunks"]]
    assert "written to out.json" in err
    assert sorted(path.name for path in files.iterdir()) == ["out.json", "r.fasta", "r.tsv"]


def test_records_without_a_label_are_refused_or_left_out(files, capsys):
    Path("r.tsv").write_text("id\tlabel\na\tvirus\nd\tothers\n")
    assert evaluate("--model", "no-such-model") == 1
    line = error_line(capsys)
    assert "2 of 4 records of r.fasta have no label in r.tsv (b, c)" in line
    assert "--skip-unlabelled" in line
    assert evaluate("--skip-unlabelled", "--json") == 0
    counts = strict(capsys.readouterr().out)["counts"]
    assert (counts["records"], counts["records_unlabelled"], counts["bases"]) == (2, 2, 840)


def test_no_record_has_a_label(files, capsys):
    Path("r.tsv").write_text("id\tlabel\nA\tvirus\n")
    assert evaluate("--skip-unlabelled") == 1
    assert "no record of r.fasta has a label in r.tsv" in error_line(capsys)


def test_labels_without_a_record_are_told_and_counted(files, capsys):
    with Path("r.tsv").open("a") as table:
        table.write("x\tvirus\ny\tothers\n")
    assert evaluate("--json") == 0
    out, err = capsys.readouterr()
    report = strict(out)
    assert report["counts"]["labels_without_record"] == 2
    (warning,) = report["warnings"]
    assert warning == "2 of 6 labels in r.tsv have no record in r.fasta (x, y)"
    assert err.splitlines()[0] == f"virnucpro: {warning}"


def test_an_id_that_comes_twice(files, capsys):
    with Path("r.fasta").open("a") as records:
        records.write(">b again\nGCATTC\n")
    assert evaluate() == 1
    assert "more than one record 'b'" in error_line(capsys)


def test_a_table_that_is_none(files, capsys):
    Path("r.tsv").write_text("id\tkind\na\tvirus\n")
    assert evaluate() == 1
    assert "no column label" in error_line(capsys)
    Path("r.tsv").unlink()
    assert evaluate() == 1
    assert "r.tsv cannot be read" in error_line(capsys)


def test_one_class_alone(files, capsys):
    Path("r.tsv").write_text("id\tlabel\na\tvirus\nb\tvirus\nc\tvirus\nd\tvirus\n")
    assert evaluate("--report", "one.json") == 0
    out, err = capsys.readouterr()
    assert "all are viruses" in err.splitlines()[0]
    report = strict(Path("one.json").read_text())
    assert report["chunks"]["auroc"] is None
    assert report["chunks"]["accuracy"] is not None
    assert "None" not in out
    assert "nan" not in out


def test_a_record_that_cannot_be_scored_is_left_out_and_the_exit_code_is_1(files, capsys):
    text = Path("r.fasta").read_text()
    Path("r.fasta").write_text(text.replace(">d text\n", ">d text\nGC4"))
    assert evaluate("--report", "out.json") == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0].startswith("virnucpro: record 'd' is left out: '4' at position 3")
    assert lines[-1].startswith("virnucpro: error: 1 records were left out")
    assert "1 records that can't be scored" in out
    counts = strict(Path("out.json").read_text())["counts"]
    assert (counts["records"], counts["records_refused"]) == (3, 1)


def test_no_open_frame_anywhere(files, capsys):
    Path("r.fasta").write_text(">a\nTAACTAACTAACTAA\n>b\nTAACTAACTAACTAA\n")
    Path("r.tsv").write_text("id\tlabel\na\tvirus\nb\tothers\n")
    assert evaluate("--report", "out.json") == 1
    assert "open reading frame" in error_line(capsys)
    assert not Path("out.json").exists()


def test_where_it_cannot_write(files, capsys):
    for options, reason in (
        (("--report", "no/out.json"), "does not exist"),
        (("--report", "."), "is a folder"),
        (("--plots", "r.tsv"), "is a file"),
    ):
        assert evaluate(*options, "--model", "no-such-model") == 1
        assert reason in error_line(capsys)


def test_a_stream_is_refused_and_a_compressed_file_is_not(files, capsys):
    assert run(["evaluate", "-", "--labels", "r.tsv"]) == 2
    assert "name a file" in error_line(capsys)
    Path("r.fasta").write_bytes(gzip.compress(Path("r.fasta").read_bytes()))
    assert evaluate("--json") == 0
    assert strict(capsys.readouterr().out)["counts"]["records"] == 4
