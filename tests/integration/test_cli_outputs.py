"""`virnucpro predict`: every output that it can write, from one run, against each other and against the input."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer.cli.app import run
from consumer.cli.demo.sample import sample_fasta
from tests.support.contig_rule import contigs_of
from tests.support.models_fixture import random_bundle
from virnucpro_core.scoring.contig_rule import CALL_FIELDS
from virnucpro_core.sequence.fasta import read_sequences

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SEQUENCES = {
    "a": "GCATTCGACCGA" * 200,
    "no_frame": "TAACTAACTAACTAA",
    "digits": "GC4",
    "empty": "",
    "b": "gcattcgaccgaa" * 30,
}
OPTIONS = ("--virus-fasta", "--bed", "--gff3", "--rejected", "--summary")


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VIRNUCPRO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VIRNUCPRO_DEVICE", "cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(random_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path)


@pytest.fixture
def reads(tmp_path: Path) -> Path:
    path = tmp_path / "reads.fasta"
    path.write_text("".join(f">{name} some words\n{letters}\n" for name, letters in SEQUENCES.items()))
    return path


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all outputs of the bundled sample by nano, two runs for two of the formats."""
    folder = tmp_path_factory.mktemp("sample")
    files = [part for option in OPTIONS for part in (option, str(folder / option.strip("-")))]
    with sample_fasta() as fasta:
        for form, more in (("virnucpro", []), ("contigs", []), ("jsonl", []), ("tsv", files)):
            assert run(["predict", str(fasta), "--format", form, "-o", str(folder / form), *more]) == 0
    return folder


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text()), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_next_program_makes_of_the_four_columns_what_contigs_says(sample: Path) -> None:
    rows = [line.split("\t") for line in (sample / "contigs").read_text().splitlines()[1:]]
    assert rows == contigs_of(sample / "virnucpro" / "prediction_results_highestscore.csv")
    assert len(rows) == 39
    assert {row[1] for row in rows} == {"Viral", "Non-viral", "Ambiguous"}


def test_every_output_has_the_same_call_on_a_record(sample: Path) -> None:
    contigs = {row["ID"]: row for row in table(sample / "contigs")}
    lines = {line["id"]: line for line in map(json.loads, (sample / "jsonl").read_text().splitlines())}
    for row in table(sample / "tsv"):
        line, contig = lines[row["id"]], contigs.get(row["id"], dict.fromkeys(CALL_FIELDS, ""))
        assert [row[name] for name in CALL_FIELDS] == [contig[name] for name in CALL_FIELDS]
        assert [line[name] or "" for name in ("call", "tier")] == [row["call"], row["tier"]]
        assert (line["call"] is None) is (row["verdict"] == "no_open_frame")
    counts = json.loads((sample / "summary").read_text())["counts"]
    for name in ("Viral", "Non-viral", "Ambiguous"):
        assert counts["calls"][name] == sum(row["call"] == name for row in contigs.values())


def test_json_lines_say_what_made_them_as_the_services_predictions_do(sample: Path) -> None:
    lines = [json.loads(line) for line in (sample / "jsonl").read_text().splitlines()]
    (stamp,) = {json.dumps(line["provenance"]) for line in lines}
    provenance = json.loads(stamp)
    model = json.loads((sample / "summary").read_text())["model"]
    for name in ("model_id", "model_sha256", "attention", "attention_backend", "precision"):
        assert provenance[name] == model[name]
    assert provenance["software_version"]
    assert (provenance["source_topic"], provenance["source_offset"]) == (None, None)


def test_the_file_of_viruses_holds_them_as_they_were_read(sample: Path) -> None:
    viral = {row["id"] for row in table(sample / "tsv") if row["verdict"] == "virus"}
    with sample_fasta() as fasta:
        expected = [record for record in read_sequences(str(fasta)) if record[0] in viral]
    assert list(read_sequences(str(sample / "virus-fasta"))) == expected


def test_bed_and_gff3_name_the_same_places_each_in_its_own_counting(sample: Path) -> None:
    bed = [line.split("\t") for line in (sample / "bed").read_text().splitlines()]
    head, *gff = (sample / "gff3").read_text().splitlines()
    assert head == "##gff-version 3"
    features = [line.split("\t") for line in gff]
    assert [(row[0], int(row[1]) + 1, int(row[2])) for row in bed] == [
        (row[0], int(row[3]), int(row[4])) for row in features
    ]
    lengths = {row["id"]: int(row["length"]) for row in table(sample / "tsv")}
    assert all(0 <= int(row[1]) < int(row[2]) <= lengths[row[0]] for row in bed)
    chunks = {
        chunk["name"]: (chunk["start"], chunk["end"])
        for line in map(json.loads, (sample / "jsonl").read_text().splitlines())
        for chunk in line["chunks"]
        if chunk["verdict"] == "virus"
    }
    assert {row[3]: (int(row[1]), int(row[2])) for row in bed if "_stretch_" not in row[3]} == chunks


def test_every_input_has_a_score_or_a_reason(reads: Path, tiny: str, tmp_path: Path) -> None:
    out, why, summary = (tmp_path / name for name in ("out.tsv", "why.tsv", "summary.json"))
    files = ["-o", str(out), "--rejected", str(why), "--summary", str(summary)]
    assert run(["predict", str(reads), "--model", tiny, *files]) == 1
    rejected = table(why)
    assert [(row["id"], row["length"], row["reason"]) for row in rejected] == [
        ("no_frame", "15", "no_open_frame"),
        ("digits", "3", "invalid_nucleotides"),
        ("empty", "0", "empty_sequence"),
    ]
    assert "'4' at position 3" in rejected[1]["detail"]
    with_score = [row["id"] for row in table(out) if row["virus_score"]]
    assert sorted(with_score + [row["id"] for row in rejected]) == sorted(SEQUENCES)
    found = json.loads(summary.read_text())
    assert found["input"]["records"] == len(SEQUENCES)
    assert found["counts"]["scored"] + found["counts"]["without_score"] == len(SEQUENCES)
    assert found["counts"]["left_out"] == {"empty_sequence": 1, "invalid_nucleotides": 1}


@pytest.mark.parametrize(
    ("ending", "opened"),
    [
        (".gz", gzip.decompress),
        (".bz2", bz2.decompress),
        (".xz", lzma.decompress),
        (".zst", zstd.decompress),
        (".GZ", gzip.decompress),
        (".tsv", bytes),
    ],
)
def test_a_name_says_how_its_file_is_compressed(
    ending: str, opened: Callable[[bytes], bytes], reads: Path, tiny: str, tmp_path: Path
) -> None:
    """The same content gives the same bytes, each time."""
    written = []
    for name in ("first", "again"):
        path, other = tmp_path / f"{name}{ending}", tmp_path / f"{name}_rejected{ending}"
        assert run(["predict", str(reads), "--model", tiny, "-o", str(path), "--rejected", str(other)]) == 1
        written.append([path.read_bytes(), other.read_bytes()])
    assert written[0] == written[1]
    assert opened(written[0][0]).startswith(b"id\tlength\tverdict")
    assert opened(written[0][1]).startswith(b"id\tlength\treason")


@pytest.mark.parametrize("content", [b"", b"\n\n", b">a\n>b words\n", gzip.compress(b"")], ids=range(4))
@pytest.mark.parametrize("form", ["tsv", "jsonl", "contigs", "virnucpro", "virnucpro-v1"])
def test_an_input_with_nothing_to_score_gives_headers_and_exit_code_0(
    content: bytes, form: str, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "reads.fasta", tmp_path / "out"
    path.write_bytes(content)
    files = [part for option in OPTIONS for part in (option, str(tmp_path / option.strip("-")))]
    assert run(["predict", str(path), "--model", tiny, "--format", form, "-o", str(out), *files]) == 0
    err = capsys.readouterr().err
    written = sorted(out.iterdir()) if form.startswith("virnucpro") else [out]
    assert {len(file.read_text().splitlines()) for file in written} == {0 if form == "jsonl" else 1}
    assert json.loads((tmp_path / "summary").read_text())["counts"]["scored"] == 0
    records = content.count(b">")
    assert len((tmp_path / "rejected").read_text().splitlines()) == 1 + records
    if not records:
        assert len(re.findall("reads.fasta (is empty|has no records)", err)) == 1
    assert "Traceback" not in err


def test_records_of_one_id_are_kept_and_it_is_said_once(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reads.fasta"
    path.write_text("".join(f">{name}\n{SEQUENCES['a'][number:]}\n" for number, name in enumerate("rsr")))
    for form, ids, how in (
        ("tsv", ["r", "s", "r"], "kept as they are"),
        ("contigs", ["r_1", "r_2", "s"], "named id_1, id_2, ..."),
    ):
        assert run(["predict", str(path), "--model", tiny, "--format", form]) == 0
        out, err = capsys.readouterr()
        assert [line.split("\t")[0] for line in out.splitlines()[1:]] == ids
        assert err.count(f"1 id comes more than once; the 2 records are {how}") == 1


def test_the_numbers_of_the_rule_are_options(
    reads: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--min-weighted-delta": 0.0, "--min-chunks": 1, "--min-confident-score": 0.1}
    options |= {"--max-opposing-score": 1.0, "--high-confidence-delta": 0.0}
    arguments = [str(part) for option in options.items() for part in option]
    folder = tmp_path / "out"
    command = ["predict", str(reads), "--model", tiny]
    assert run([*command, "--format", "virnucpro", "-o", str(folder)]) == 1
    capsys.readouterr()
    assert run([*command, "--format", "contigs"]) == 1
    usual = capsys.readouterr().out
    assert run([*command, "--format", "contigs", *arguments]) == 1
    printed = capsys.readouterr().out
    numbers = {name.strip("-").replace("-", "_"): value for name, value in options.items()}
    path = folder / "prediction_results_highestscore.csv"
    assert [line.split("\t") for line in printed.splitlines()[1:]] == contigs_of(path, **numbers)
    assert printed != usual
    assert run([*command, "--min-weighted-delta", "1.5"]) == 2


def test_viral_is_by_the_verdict_or_by_the_call(reads: Path, tiny: str, tmp_path: Path) -> None:
    """With a delta that nothing reaches no record is called Viral, whatever its verdict."""
    found = {}
    for by in ("verdict", "call"):
        path = tmp_path / by
        options = ["--virus-fasta", str(path), "--virus-by", by, "--min-weighted-delta", "1"]
        assert run(["predict", str(reads), "--model", tiny, "-o", str(tmp_path / "x"), *options]) == 1
        found[by] = path.read_text().count(">")
    viral = sum(row["verdict"] == "virus" for row in table(tmp_path / "x"))
    assert found == {"verdict": viral, "call": 0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--bed", "x", "--gff3", "./x"], "--bed and --gff3 both write x: name two files"),
        (["-o", "x", "--summary", "x"], "--output and --summary both write x: name two files"),
        (["--rejected", "reads.fasta"], "the output reads.fasta is the input reads.fasta"),
        (["--virus-fasta", "-"], "--virus-fasta does not write to standard output: name a file"),
        (["--bed", "no/x"], "the folder no does not exist"),
        (
            ["--format", "virnucpro", "-o", ".", "--bed", "prediction_results.txt"],
            "prediction_results.txt and --bed both write prediction_results.txt",
        ),
    ],
)
def test_outputs_that_cannot_be_written_together_are_refused_first(
    options: list[str],
    says: str,
    reads: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(reads.parent)
    assert run(["predict", "reads.fasta", *options]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert list(reads.parent.iterdir()) == [reads]


def test_a_run_that_fails_leaves_every_output_as_it_was(
    reads: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The input is damaged behind what was scored: a pipe, so that this is found only then."""
    pipe, folder = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    folder.mkdir()
    names = ["tsv", *(option.strip("-") for option in OPTIONS)]
    for name in names[::2]:
        (folder / name).write_text("before")
    files = [part for option in OPTIONS for part in (option, str(folder / option.strip("-")))]
    damaged = gzip.compress(reads.read_bytes() * 5)[:-10]
    writer = threading.Thread(target=lambda: pipe.write_bytes(damaged))
    writer.start()
    assert run(["predict", str(pipe), "--model", tiny, "-o", str(folder / "tsv"), *files]) == 1
    writer.join()
    assert "truncated" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(names[::2], "before")
