"""The training of a tiny model on one split of a made-up corpus, by the commands that a person gives."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.support.training_fixture import DEV_SHARE, TINY, write_data
from training.data import prepare_data, train_tokenizer
from training.data.corpus import SPLITS, Corpus, ids_digest
from training.data.make_tables import evaluation_table
from training.reports.evaluate import engine_margins
from training.runs import one_split
from virnucpro_core.bundle.bundle import Bundle
from virnucpro_core.evaluation.metrics import binary_metrics
from virnucpro_core.models.engine import Engine
from virnucpro_core.scoring.verdicts import verdict_margins
from virnucpro_core.sequence.prepare import prepare

pytestmark = pytest.mark.usefixtures("one_thread")


def arguments(folder: Path, *changes: str) -> list[str]:
    """Of training.runs.one_split."""
    options = ["--data", str(folder / "data"), "--out", str(folder / "out"), "--lengths", "500"]
    options += ["--device", "cpu", "--processes", "1", "--baseline-chunks", "60"]
    return options + [word for change in (*TINY, *changes) for word in ("--set", change)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder with data/ and out/ of a whole run, and the lines that the run printed."""
    folder = tmp_path_factory.mktemp("run")
    fasta, manifest = write_data(folder)
    share = ["--dev-share", str(DEV_SHARE)]
    data = str(folder / "data")
    assert prepare_data.main([str(fasta), "--manifest", str(manifest), "--out", data, *share]) == 0
    assert train_tokenizer.main(["--data", data, "--pieces", "600"]) == 0
    with redirect_stdout(StringIO()) as printed:
        assert one_split.main(arguments(folder)) == 0
    return folder, [json.loads(line) for line in printed.getvalue().splitlines()]


def stamps(folder: Path, pattern: str = "*") -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "out").rglob(pattern)}


def test_the_bundle_scores_and_its_manifest_says_how_it_was_made(run) -> None:
    folder, _ = run
    bundle = Bundle.load(folder / "out" / "nano-500")
    manifest = bundle.manifest
    assert (manifest.id, manifest.expected_length) == ("nano-500", 500)
    corpus = Corpus.load(folder / "data" / "genomes.npz")
    engine = Engine(bundle, "cpu")
    frames = prepare("v", corpus.sequence(0), 500, engine.tokenizer).frames
    assert len(frames) > 5
    assert engine.score(frames).sum(axis=1) == pytest.approx(1, abs=1e-6)

    trial = json.loads((folder / "out" / "trial" / "model-500.json").read_text())
    assert manifest.temperature == trial["temperature"] == manifest.training["trial_on_dev"]["temperature"]
    assert [point["step"] for point in trial["curves"]["member 1"]] == [2, 4]
    final = json.loads((folder / "out" / "final" / "model-500.json").read_text())
    assert "temperature" not in final  # the dev split has been trained on
    assert manifest.training["trained_on"] == ["train", "dev"]
    assert manifest.training["recipe"]["shape"]["esm2_dim"] == manifest.esm2.dim == 32
    for split in SPLITS:
        ids = [str(i) for i in corpus.ids[corpus.records_of(split)]]
        assert manifest.training["data"][split]["ids_sha256"] == ids_digest(ids)
        assert manifest.training["data"][split]["ids"].split() == sorted(ids)


def test_figures_are_of_all_records_and_of_unseen_genera(run) -> None:
    folder, _ = run
    bundle = Bundle.load(folder / "out" / "nano-500")
    validation = bundle.manifest.validation
    assert (validation["split"], validation["precision"]) == ("validation", "fp32")
    places = [validation[level] for level in ("chunk", "pieces_of_5kb", "records", "records_by_verdict_rule")]
    places += [validation["baseline"][level] for level in ("chunk", "pieces_of_5kb", "records")]
    for place in places:
        assert place["all"]["genomes"] == 6
        assert place["unseen_genera"]["genomes"] == 4
        assert 0 <= place["unseen_genera"]["auroc"] <= 1
        assert 0 <= place["unseen_genera"]["ece"] <= 1
    assert validation["chunk"]["all"]["pieces"] == validation["chunks"] > 60
    # The trees see at once what the tiny model has no time to learn: the share of G and C.
    assert validation["baseline"]["chunk"]["all"]["auroc"] > 0.9
    # They are what the bundle says, through the engine: its stored weights, its temperature.
    genomes = folder / "data" / "genomes.npz"
    corpus = Corpus.load(genomes)
    table = evaluation_table(
        genomes, bundle.file("tokenizer"), corpus.records_of("validation"), 500, False, 1
    )
    margins = verdict_margins(engine_margins(Engine(bundle, "cpu", "fp32"), table), table.frame_chunk)
    measured = binary_metrics(margins, corpus.labels[table.chunk_record] == 1, table.chunk_record)
    assert validation["chunk"]["all"] == measured
    whole = json.loads((folder / "out" / "nano-500.json").read_text())
    assert whole["chunk"]["all"] == validation["chunk"]["all"]
    assert set(whole["chunk"]["by_novelty"]) >= {"novel_genus (virus)", "seen_genus (others)"}


def test_where_there_is_no_terminal_the_run_prints_lines_of_json(run) -> None:
    _, lines = run
    of_members = [(line["phase"], line["member"], line["step"]) for line in lines if "member" in line]
    assert of_members == [
        ("trial", "member 1", 2),
        ("trial", "member 1", 4),
        ("trial", "member 2", 2),
        ("trial", "member 2", 4),
    ]
    assert lines[-1]["bundle"] == "nano-500"
    assert lines[-1]["chunk"]["genomes"] == 4


def test_what_is_done_is_not_done_again(run, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = run
    before = stamps(folder)
    assert one_split.main(arguments(folder)) == 0
    assert stamps(folder) == before
    assert capsys.readouterr().out == ""


def test_a_bundle_of_another_recipe_is_not_taken_for_this_one(run) -> None:
    folder, _ = run
    before = stamps(folder)
    with pytest.raises(SystemExit, match="nano-500 is of other data or another recipe"):
        one_split.main(arguments(folder, "head.dropout=0.5"))
    assert stamps(folder) == before
