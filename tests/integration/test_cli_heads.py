"""`virnucpro embed` and `train-head` on the sample: from sequences to a bundle that predicts with its own head."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from consumer.cli.app import run
from tests.support.checkpoints import save_classifier, trained_classifier
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.heads.feature_reader import read_features
from virnucpro_core.models.engine import Engine
from virnucpro_core.sequence.fasta import read_sequences
from virnucpro_core.sequence.prepare import prepare

ROOT = Path(__file__).parents[2]
SAMPLE, TRUTH = (ROOT / "consumer" / "data" / name for name in ("sample.fasta", "sample_truth.tsv"))
DIM = 320
QUICK = ("--epochs", "4", "--hidden", "16", "--validation-share", "0.3")


@pytest.fixture(scope="module", autouse=True)
def settings() -> Iterator[None]:
    """Everything on one thread of the CPU, with no setting of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("VIRNUCPRO_")]:
            patch.delenv(name)
        patch.setenv("VIRNUCPRO_DEVICE", "cpu")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def v1_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option --v1-attention sets the variable."""
    monkeypatch.setenv("VIRNUCPRO_V1_ATTENTION", "false")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sample's features by both paths."""
    folder = tmp_path_factory.mktemp("features")
    paths = {name: folder / f"{name}.safetensors" for name in ("packed", "v1")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIRNUCPRO_V1_ATTENTION", "false")
        assert run(["embed", str(SAMPLE), "-o", str(paths["packed"])]) == 0
        assert run(["embed", str(SAMPLE), "-o", str(paths["v1"]), "--v1-attention"]) == 0
    return paths


@pytest.fixture(scope="module")
def compared(
    embedded: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, dict[str, Any]]:
    """A bundle made with --compare, and its report."""
    folder = tmp_path_factory.mktemp("heads")
    arguments = train(embedded["packed"], folder / "mine", "--compare", str(embedded["v1"]))
    assert run([*arguments, "--report", str(folder / "report.json")]) == 0
    return Bundle.load(folder / "mine"), json.loads((folder / "report.json").read_text())


def train(features: Path, output: Path, *more: str, labels: Path = TRUTH) -> list[str]:
    options = ["--labels", str(labels), "-o", str(output), "--id", "mine"]
    quick = () if "--head" in more else QUICK
    return ["train-head", str(features), *options, *quick, *more]


def engine(v1: bool = False) -> Engine:
    return Engine(Bundle.load(find_bundle("nano")), device="cpu", self_test=False, v1_attention=v1)


def predicted(bundle: Path, capsys: pytest.CaptureFixture[str]) -> NDArray[np.float32]:
    """The virus scores of the sample's frames, in order, as `virnucpro predict` prints them."""
    capsys.readouterr()
    assert run(["predict", str(SAMPLE), "--model", str(bundle), "--format", "jsonl"]) == 0
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    scores = [f["virus"] for line in lines for chunk in line["chunks"] for f in chunk["frames"]]
    return np.array(scores, dtype=np.float32)


def head_scores(
    features: NDArray[np.float32], w: dict[str, NDArray[np.float32]], temperature: float
) -> np.ndarray:
    """VirNucPro's classifier in float64, written out."""
    hidden = features.astype(np.float64) @ w["hidden.weight"].T + w["hidden.bias"]
    normed = (hidden - w["norm.running_mean"]) / np.sqrt(w["norm.running_var"] + 1e-5)
    kept = np.maximum(normed * w["norm.weight"] + w["norm.bias"], 0)
    logits = kept @ w["output.weight"].T + w["output.bias"]
    return 1 / (1 + np.exp((logits[:, 0] - logits[:, 1]) / temperature))


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith("virnucpro: error: ")
    return line


class TestEmbed:
    @pytest.mark.parametrize("name", ["packed", "v1"])
    def test_the_file_holds_what_the_engine_gives(self, embedded: dict[str, Path], name: str) -> None:
        file = read_features(embedded[name])
        model = engine(v1=name == "v1")
        records = [prepare(i, s, 500, model.tokenizer) for i, _, s in read_sequences(str(SAMPLE))]
        frames = [frame for record in records for frame in record.frames]
        np.testing.assert_array_equal(file.features, model.features(frames))
        assert file.record_ids == tuple(record.record_id for record in records)
        owners = [number for number, record in enumerate(records) for _ in record.frames]
        assert file.frame_record.tolist() == owners
        starts = [record.spans[frame.chunk][0] for record in records for frame in record.frames]
        assert file.chunk_start[file.frame_chunk].tolist() == starts
        info = file.info
        assert (info.model_id, info.model_sha256) == ("nano-500", model.info.model_sha256)
        assert (info.attention, info.attention_backend) == (name, {"packed": "sdpa", "v1": "fair-esm"}[name])
        assert (info.precision, info.device, info.source) == ("fp32", "cpu", "sample.fasta")
        assert (info.records_without_open_frame, info.records_left_out) == (1, 0)

    def test_a_record_that_cannot_be_embedded_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, output = tmp_path / "some.fasta", tmp_path / "some.safetensors"
        path.write_text(">good\nGCATTCGCA\n>digits\nGC4\n>no_frame\nTAACTAACTAACTAA\n>good2\nGCAGCA\n")
        assert run(["embed", str(path), "-o", str(output)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        lines = err.splitlines()
        assert "'digits' is left out: '4' at position 3" in lines[0]
        assert lines[1].startswith(
            "embedded 12 frames of 3 records, 30 bases, with the model nano-500 on cpu (fp32)"
        )
        assert lines[2].startswith("virnucpro: error: 1 records were left out")
        file = read_features(output)
        assert file.record_ids == ("good", "no_frame", "good2")
        assert (file.info.records_without_open_frame, file.info.records_left_out) == (1, 1)

    def test_where_it_cannot_write(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["embed", str(SAMPLE), "-o", str(tmp_path / "no" / "x")]) == 1
        assert "does not exist" in error_line(capsys)
        assert run(["embed", str(SAMPLE), "-o", str(tmp_path)]) == 1
        assert "is a folder" in error_line(capsys)
        assert run(["embed", str(SAMPLE), "-o", "/dev/full"]) == 1
        assert "is not a regular file" in error_line(capsys)

    def test_ctrl_c_leaves_nothing(self, tmp_path: Path) -> None:
        source, folder = tmp_path / "pipe", tmp_path / "out"
        os.mkfifo(source)
        folder.mkdir()
        child = subprocess.Popen(
            [sys.executable, "-m", "consumer.cli.app", "embed", str(source), "-o", str(folder / "f")],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        with source.open("w") as pipe:  # opens once the command reads, and that is when the draft is there
            pipe.write(">a\nGCATTCGCA\n")
            pipe.flush()
            assert len(list(folder.iterdir())) == 1
            child.send_signal(2)
            _, err = child.communicate(timeout=60)
        assert child.returncode == 130, err
        assert "Traceback" not in err
        assert list(folder.iterdir()) == []


class TestTrainHead:
    def test_the_bundle_predicts_with_its_own_head(
        self,
        embedded: dict[str, Path],
        compared: tuple[Bundle, dict[str, Any]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        bundle, report = compared
        features = read_features(embedded["packed"]).features
        assert bundle.manifest.temperature == report["temperature"] != 1
        expected = head_scores(features, load_file(bundle.file("head")), report["temperature"])
        np.testing.assert_allclose(predicted(bundle.path, capsys), expected, atol=2e-6)
        assert bundle.manifest.head.hidden == 16
        assert np.abs(predicted(find_bundle("nano"), capsys) - expected).max() > 0.05

    def test_the_manifest_says_what_it_was_made_of(
        self,
        embedded: dict[str, Path],
        compared: tuple[Bundle, dict[str, Any]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        bundle, report = compared
        nano = Bundle.load(find_bundle("nano"))
        training = bundle.manifest.training
        assert training["base"] == {
            "id": "nano-500",
            "sha256": nano.sha256,
            "training": nano.manifest.training,
        }
        assert training["settings"]["seed"] == 1
        assert training["settings"]["epochs"] == 4
        assert training["command"].startswith(
            "virnucpro train-head packed.safetensors --labels sample_truth.tsv --compare v1.safetensors --hidden 16"
        )
        assert training["data"]["features"]["v1"]["attention_backend"] == "fair-esm"
        assert len(training["data"]["labels"]["sha256"]) == 64
        split = training["split"]
        assert split["labelled_without_open_frame"] == 1
        assert split["training"]["records"] + split["held_out"]["records"] == 39
        assert bundle.manifest.validation["measured"] == report["measured"]
        calibration = bundle.manifest.calibration
        assert report["calibration"] == (
            calibration.about if calibration else {"none": report["calibration"]["none"]}
        )
        capsys.readouterr()
        assert run(["models", "show", str(bundle.path)]) == 0
        shown = capsys.readouterr().out
        assert f"validation chunk_auroc         {report['measured'][0]['chunks']['auroc']}\n" in shown

    def test_both_heads_are_measured_on_both_files(self, compared: tuple[Bundle, dict[str, Any]]) -> None:
        _, report = compared
        rows = [(row["head"], row["features"]) for row in report["measured"]]
        heads = ("trained on packed", "trained on v1", "base (nano-500)")
        assert rows == [(head, features) for head in heads for features in ("packed", "v1")]
        for row in report["measured"]:
            assert row["chunks"]["pieces"] == report["split"]["held_out"]["chunks"]
            assert 0 <= row["records_by_verdict"]["auroc"] <= 1
        systems, *crossed = report["compared"]
        assert systems["one"] == {"head": "trained on packed", "features": "packed"}
        assert systems["other"] == {"head": "trained on v1", "features": "v1"}
        # The two paths differ in the last bits only, and so do heads of one seed.
        for pair in (systems, *crossed):
            assert pair["chunks_agree"] == 1.0
            assert pair["largest_score_difference"] < 1e-3
        assert crossed[0]["largest_score_difference"] > 0

    def test_it_is_the_same_again(
        self, embedded: dict[str, Path], compared: tuple[Bundle, dict[str, Any]], tmp_path: Path
    ) -> None:
        bundle, report = compared
        again = train(embedded["packed"], tmp_path / "mine", "--report", str(tmp_path / "report.json"))
        assert run(again) == 0
        assert Bundle.load(tmp_path / "mine").file("head").read_bytes() == bundle.file("head").read_bytes()
        alone = json.loads((tmp_path / "report.json").read_text())
        assert alone["measured"][0]["chunks"] == report["measured"][0]["chunks"]
        assert alone["compared"] == []
        other = train(embedded["packed"], tmp_path / "other", "--seed", "2")
        assert run(other) == 0
        assert Bundle.load(tmp_path / "other").file("head").read_bytes() != bundle.file("head").read_bytes()

    def test_what_it_prints(
        self, embedded: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        labels = tmp_path / "labels.tsv"
        rows = [line.split("\t") for line in TRUTH.read_text().splitlines()[1:]]
        groups = [f"{row[0]}\t{row[1]}\t{row[1]}{number % 6}\n" for number, row in enumerate(rows[:-1])]
        labels.write_text("id\tlabel\tgroup\n" + "".join(groups) + "elsewhere\tvirus\tx\n")
        capsys.readouterr()
        assert run(train(embedded["packed"], tmp_path / "mine", labels=labels)) == 0
        out, err = capsys.readouterr()
        lines = out.splitlines()
        assert lines[0].startswith("model        mine: nano-500 with another head, temperature ")
        assert lines[2].endswith(": 30% of the groups of each label, held out")
        assert "records without a label: 1" in lines[3]
        assert "labels of no record: 1" in lines[3]
        heads = [line[2:19].rstrip() for line in lines if line.startswith(("  new", "  base"))]
        assert heads == ["new", "base (nano-500)"] * 3
        assert (
            lines[-1]
            == "* the head of nano-500 may have been trained on these records; then its figures flatter it"
        )
        # A few epochs on a few records: far below the base, which is said.
        assert "warning: the new head is far below its base, chunks: of " in err
        assert "is complete" not in err
        assert " is written in " in err

    def test_a_head_of_ones_own(
        self, embedded: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        head = trained_classifier(DIM, 20)
        path = save_classifier(head, tmp_path / "500_model.pth")
        report = tmp_path / "report.json"
        own = train(embedded["packed"], tmp_path / "mine", "--head", str(path), "--report", str(report))
        assert run(own) == 0
        bundle = Bundle.load(tmp_path / "mine")
        found = json.loads(report.read_text())
        assert found["split"]["held_out"]["records"] == 39
        assert "the given head may have been trained on these records" in found["notes"][0]
        features = torch.from_numpy(np.array(read_features(embedded["packed"]).features))
        with torch.no_grad():
            expected = torch.softmax(head(features) / bundle.manifest.temperature, dim=1)[:, 1]
        np.testing.assert_allclose(predicted(bundle.path, capsys), expected.numpy(), atol=2e-6)

    def test_the_calibration_is_that_of_the_scores_that_the_bundle_gives(
        self, embedded: dict[str, Path], tmp_path: Path
    ) -> None:
        path = save_classifier(trained_classifier(DIM, 20), tmp_path / "500_model.pth")
        assert run(train(embedded["packed"], tmp_path / "mine", "--head", str(path))) == 0
        arguments = ["calibrate", str(SAMPLE), "--labels", str(TRUTH), "--model", str(tmp_path / "mine")]
        assert run([*arguments, "-o", str(tmp_path / "again"), "--id", "again"]) == 0
        of_features, of_scores = (
            Bundle.load(tmp_path / name).manifest.calibration for name in ("mine", "again")
        )
        assert of_features is not None
        assert of_scores is not None
        assert of_features.most_chunks == of_scores.most_chunks
        for name in ("intercept", "margin", "log_chunks", "interaction"):
            assert getattr(of_features, name) == pytest.approx(getattr(of_scores, name), abs=1e-3)

    def test_ctrl_c_leaves_nothing(self, embedded: dict[str, Path], tmp_path: Path) -> None:
        """On a terminal, so that the bar tells when it trains."""
        terminal, stderr = pty.openpty()
        arguments = train(embedded["packed"], tmp_path / "mine", "--epochs", "1000000")
        child = subprocess.Popen(
            [sys.executable, "-m", "consumer.cli.app", *arguments], cwd=ROOT, stderr=stderr
        )
        os.close(stderr)
        told = b""
        while b"loss 0." not in told:
            told += os.read(terminal, 1000)
        child.send_signal(signal.SIGINT)
        try:
            assert child.wait(timeout=60) == 130
        finally:
            child.kill()
        os.close(terminal)
        assert list(tmp_path.iterdir()) == []


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "code", "message"),
        [
            (["--model", "no-such-model"], 1, "no model bundle 'no-such-model'"),
            (["--head", "{truth}", "--compare", "{v1}"], 2, "leave one of them out"),
            (["--head", "{truth}", "--validation-share", "0.3"], 2, "--validation-share says how to train"),
            (["--id", " "], 2, "--id must not be empty"),
            (["--compare", "{truth}"], 1, "sample_truth.tsv is not a feature file"),
            (["--labels", "{sample}"], 1, "has no column id and label"),
            (["--head", "{truth}"], 1, "sample_truth.tsv is damaged"),
            (["--head", "{wide}"], 1, f"takes {DIM + 1} features, but the model nano-500 gives {DIM}"),
            (["--report", "{folder}"], 1, "is a folder"),
            (["--report", "{folder}/no/report.json"], 1, "does not exist"),
            (["--output", "{folder}"], 2, "exists already"),
            (["--labels", "{few}"], 1, "virus: 1 record with an open frame, and at least 4 are needed"),
            (["--labels", "{others}"], 1, "0 are labelled virus and 0 others"),
            (["--epochs", "0"], 2, "--epochs"),
        ],
    )
    def test_one_line_and_nothing_is_made(
        self,
        embedded: dict[str, Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        change: list[str],
        code: int,
        message: str,
    ) -> None:
        given = tmp_path / "given"
        given.mkdir()
        few = [
            line for line in TRUTH.read_text().splitlines() if "\tvirus\t" not in line or "NC_002991" in line
        ]
        (given / "few.tsv").write_text("\n".join(few))
        (given / "others.tsv").write_text("id\tlabel\nelsewhere\tvirus\n")
        paths = {
            "truth": TRUTH,
            "sample": SAMPLE,
            "folder": given,
            "v1": embedded["v1"],
            "wide": save_classifier(trained_classifier(DIM + 1), given / "wide.pth"),
            "few": given / "few.tsv",
            "others": given / "others.tsv",
        }
        before = sorted(given.iterdir())
        capsys.readouterr()
        arguments = [word.format(**paths) for word in change]
        assert run(train(embedded["packed"], tmp_path / "mine", *arguments)) == code
        assert message in error_line(capsys)
        assert list(tmp_path.iterdir()) == [given]
        assert sorted(given.iterdir()) == before

    def test_features_of_another_model(
        self, embedded: dict[str, Path], tmp_path: Path, compared: tuple[Bundle, dict[str, Any]], capsys: Any
    ) -> None:
        mine = str(compared[0].path)
        capsys.readouterr()
        assert run([*train(embedded["packed"], tmp_path / "x"), "--model", mine]) == 1
        assert "was made with the model nano-500 of sha256" in error_line(capsys)
        short = tmp_path / "short.fasta"
        short.write_text(">a\nGCATTCGCA\n")
        assert run(["embed", str(short), "-o", str(tmp_path / "f"), "--model", mine]) == 0
        capsys.readouterr()
        assert run(train(tmp_path / "f", tmp_path / "x")) == 2
        assert "does not come with the package: name its folder with --model" in error_line(capsys)
        assert run(train(embedded["packed"], tmp_path / "x", "--compare", str(tmp_path / "f"))) == 1
        assert "cannot be compared: they are of different models (nano-500" in error_line(capsys)

    def test_features_of_other_frames(self, embedded: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
        """As of a file in which a record was replaced after the first was made."""
        changed = tmp_path / "changed.fasta"
        changed.write_text(SAMPLE.read_text().replace(">NC_022250", ">NC_022251", 1))
        assert run(["embed", str(changed), "-o", str(tmp_path / "f")]) == 0
        capsys.readouterr()
        assert run(train(embedded["packed"], tmp_path / "x", "--compare", str(tmp_path / "f"))) == 1
        assert "is 'NC_022250' in the first and 'NC_022251' in the second" in error_line(capsys)

    def test_a_safetensors_file_that_is_none_of_ours(self, tmp_path: Path, capsys: Any) -> None:
        save_file({"features": np.zeros((2, 2), dtype=np.float32)}, tmp_path / "f")
        capsys.readouterr()
        assert run(train(tmp_path / "f", tmp_path / "x")) == 1
        assert "is a safetensors file, but not a feature file: make one with virnucpro embed" in error_line(
            capsys
        )


def test_labels_that_come_by_a_pipe_have_no_sha256(
    embedded: dict[str, Path], by_a_pipe: Callable[[Path], str], tmp_path: Path
):
    labels = Path(by_a_pipe(TRUTH))
    report = tmp_path / "report.json"
    command = train(embedded["packed"], tmp_path / "mine", "--report", str(report), labels=labels)
    assert run(command) == 0
    assert json.loads(report.read_text())["data"]["labels"] == {"name": labels.name, "sha256": None}


def test_without_its_report_there_is_no_bundle(
    embedded: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(train(embedded["packed"], tmp_path / "mine", "--report", "/dev/full")) == 1
    assert "cannot write /dev/full: No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
