"""`virnucpro calibrate`, and the options of `predict` that need a calibration, on the sample."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.cli.app import run
from tests.support.harness import ROOT
from virnucpro_core.bundle.bundle import Bundle, find_bundle, recalibrated_bundle
from virnucpro_core.bundle.manifest import BundleError, Manifest

SAMPLE, TRUTH = (ROOT / "consumer" / "data" / name for name in ("sample.fasta", "sample_truth.tsv"))


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIRNUCPRO_DEVICE", "cpu")
        patch.setenv("VIRNUCPRO_SELF_TEST", "false")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Bundle, str]:
    """A calibrated bundle, and what the command that made it has printed."""
    path = tmp_path_factory.mktemp("bundles") / "mine"
    arguments = ["calibrate", str(SAMPLE), "--labels", str(TRUTH), "-o", str(path), "--id", "mine", "--json"]
    with redirect_stdout(io.StringIO()) as printed:
        assert run(arguments) == 0
    return Bundle.load(path), printed.getvalue()


@pytest.fixture(scope="module")
def calibrated(made) -> Bundle:
    return made[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """The bundled model without its calibration."""
    path = tmp_path_factory.mktemp("plain") / "plain"
    base = Bundle.load(find_bundle("nano"))
    recalibrated_bundle(base, path, replace(base.manifest, id="plain", calibration=None))
    return path


@pytest.fixture(scope="module")
def predicted(calibrated, tmp_path_factory) -> Path:
    """The sample's results as JSON lines."""
    path = tmp_path_factory.mktemp("predicted") / "all.jsonl"
    assert run(["predict", str(SAMPLE), "--model", str(calibrated.path), "--json", "-o", str(path)]) == 0
    return path


def rows(text: str) -> dict[str, str]:
    """The last column of a table by its first."""
    return {line.split("\t")[0]: line.split("\t")[-1] for line in text.splitlines()}


def error_of(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert run(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_copy_is_the_base_but_for_its_calibration(calibrated, plain, capsys):
    base = Bundle.load(find_bundle("nano"))
    manifest = calibrated.manifest
    assert manifest.id == "mine"
    assert {role: entry.sha256 for role, entry in manifest.files.items()} == {
        role: entry.sha256 for role, entry in base.manifest.files.items()
    }
    assert manifest.calibration is not None
    assert manifest.calibration.about["base"] == {"id": "nano-500", "sha256": base.sha256}
    assert manifest.calibration.about["records"] == 39
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert run(["models", "show", str(calibrated.path)]) == 0
    assert "calibrated; cross-validated calibration error 0." in capsys.readouterr().out
    assert run(["models", "show", str(plain)]) == 0
    assert "none: this bundle has no calibration" in capsys.readouterr().out


def test_a_probability_is_that_of_the_manifest(calibrated, predicted):
    for line in map(json.loads, predicted.read_text().splitlines()):
        chunks = [chunk for chunk in line["chunks"] if chunk["frames"]]
        assert (line["probability"] is None) == (not chunks)
        if chunks:
            assert 0 < line["probability"] < 1
    numbers = [json.loads(line) for line in predicted.read_text().splitlines()]
    sure = max((n for n in numbers if n["probability"]), key=lambda n: n["probability"])
    assert sure["call"] == "Viral"


def test_only_wanted_records_are_written_and_all_are_summed_up(calibrated, predicted, tmp_path, capsys):
    known = {n["id"]: n["probability"] for n in map(json.loads, predicted.read_text().splitlines())}
    table, viruses, summary = (tmp_path / name for name in ("t.tsv", "v.fasta", "s.json"))
    arguments = ["predict", str(SAMPLE), "--model", str(calibrated.path), "-o", str(table)]
    arguments += [
        "--virus-fasta",
        str(viruses),
        "--summary",
        str(summary),
        "--prior",
        "0.2",
        "--max-fdr",
        "0.1",
    ]
    assert run(arguments) == 0
    found = {name: float(p) for name, p in rows(table.read_text()).items() if name != "id"}
    for name, probability in found.items():
        odds = known[name] / (1 - known[name]) / 4
        assert probability == pytest.approx(odds / (1 + odds), rel=1e-4)
    assert [line[1:].split()[0] for line in viruses.read_text().splitlines() if line[0] == ">"] == list(found)
    said = json.loads(summary.read_text())
    assert said["counts"]["scored"] == 39
    chosen = said["probability"]
    assert chosen["selected"] == len(found)
    assert chosen["expected_fdr"] == pytest.approx(1 - sum(found.values()) / len(found), abs=1e-4)
    assert chosen["expected_fdr"] <= 0.1
    share = f"{chosen['expected_fdr']:.1%} of these are expected to be others"
    assert f"{len(found)} of the 40 records are written; {share}" in capsys.readouterr().err.splitlines()


def test_no_share_is_expected_where_no_record_is_written(calibrated, tmp_path, capsys):
    arguments = ["predict", str(SAMPLE), "--model", str(calibrated.path), "--min-probability", "1"]
    arguments += ["-o", str(tmp_path / "table")]
    assert run(arguments) == 0
    assert "0 of the 40 records are written" in capsys.readouterr().err.splitlines()


def test_the_report_is_printed_as_json(made):
    bundle, printed = made
    assert bundle.manifest.calibration is not None
    assert json.loads(printed) == json.loads(json.dumps(bundle.manifest.calibration.as_dict()))


@pytest.mark.parametrize("option", ["--prior", "--min-probability", "--max-fdr"])
def test_without_a_calibration_the_options_are_refused_in_one_line(option, plain, capsys):
    line = error_of(capsys, "predict", str(SAMPLE), "--model", str(plain), option, "0.5")
    assert f"{option} needs probabilities, and the model plain has no calibration" in line
    assert "virnucpro calibrate" in line


def test_what_says_nothing_is_refused(calibrated, capsys):
    model = ("--model", str(calibrated.path))
    assert "known already" in error_of(capsys, "predict", str(SAMPLE), *model, "--prior", "1")
    line = error_of(capsys, "predict", str(SAMPLE), *model, "--virus-by", "probability")
    assert "needs --min-probability or --max-fdr" in line


def test_too_few_labels_are_refused(tmp_path, capsys):
    few = tmp_path / "few.tsv"
    few.write_text("".join(TRUTH.read_text().splitlines(keepends=True)[:6]))
    arguments = ["calibrate", str(SAMPLE), "--labels", str(few), "--skip-unlabelled", "--id", "x"]
    assert run([*arguments, "-o", str(tmp_path / "out")]) == 1
    assert "are needed for a calibration: label more records" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("margin", "1", "'margin' must be a number"),
        ("margin", -1.0, "lower probability"),
        ("intercept", float("inf"), "not finite"),
        ("most_chunks", None, "'most_chunks' is missing"),
    ],
)
def test_a_damaged_calibration_is_named(calibrated, name, value, said):
    content = json.loads(calibrated.manifest.to_json())
    content["calibration"][name] = value
    with pytest.raises(BundleError, match=said):
        Manifest.from_json(json.dumps(content))


def test_labels_that_come_by_a_pipe_have_no_sha256(made, by_a_pipe, tmp_path):
    with redirect_stdout(io.StringIO()) as printed:
        command = ["calibrate", str(SAMPLE), "--labels", by_a_pipe(TRUTH), "-o", str(tmp_path / "mine")]
        assert run([*command, "--id", "mine", "--json"]) == 0
    calibration, before = json.loads(printed.getvalue()), json.loads(made[1])
    assert calibration["about"]["labels"]["sha256"] is None
    assert calibration["intercept"] == before["intercept"]
