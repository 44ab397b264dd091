"""The generated part of the model card: its figures are the report's, and it is written whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import training.reports.evaluate
from tests.support.training_fixture import data, rows, tiny_recipe
from training.reports.evaluate import engine_margins, evaluate, headline
from training.reports.model_card import main
from training.reports.model_card_text import Made, bundle_section, cell, metrics_row, table
from training.runs.pipeline import facts
from training.runs.workspace import FINAL, PHASES, Workspace
from virnucpro_core.bundle.bundle import read_manifest
from virnucpro_core.bundle.manifest import (
    ROLES,
    DnabertSConfig,
    Esm2Config,
    FileEntry,
    HeadConfig,
    Manifest,
)
from virnucpro_core.evaluation.metrics import binary_metrics

LENGTHS = (500, 300)
SOURCES = (("lab/b", "MIT"), ("lab/a|x", "none stated"), ("lab/a|x", ""), ("", "GPL-3.0"))
"""Of the records in turn."""


@dataclass(frozen=True)
class Run:
    """What training.run and the preparation of its data leave."""

    out: Path
    table: Path

    def card(self, docs: Path, *more: str) -> str:
        """Make it; the text."""
        given = ["--out", str(self.out), "--manifest", str(self.table), "--docs", str(docs)]
        assert main([*given, *more]) == 0
        return (docs / "nano" / "figures.md").read_text()

    def report(self, length: int) -> dict[str, Any]:
        return json.loads((self.out / f"nano-{length}.json").read_text())

    def copy(self, folder: Path) -> Run:
        """To be altered."""
        shutil.copytree(self.out, folder / "out")
        return Run(folder / "out", Path(shutil.copy(self.table, folder)))


def report_of(length: int) -> dict[str, Any]:
    """What `evaluate` says of a model that guesses, a little better than by chance."""
    draw = np.random.default_rng(length)
    engine = SimpleNamespace(info=SimpleNamespace(precision="fp32", device="cpu"))
    bundle = SimpleNamespace(
        manifest=SimpleNamespace(id=f"nano-{length}", temperature=1.25),
        expected_length=length,
        file=lambda role: data().tokenizer_file,
    )

    def margins(engine: object, frames: Any) -> np.ndarray:
        virus = data().corpus.labels[frames.chunk_record[frames.frame_chunk]]
        return draw.normal(size=len(frames)) + virus - 0.5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.reports.baseline.TREES", 5)
        patch.setattr(training.reports.evaluate, "Engine", lambda *_: engine)
        patch.setattr(training.reports.evaluate, engine_margins.__name__, margins)
        return evaluate(bundle, data().genomes, "validation", PHASES[FINAL], baseline_chunks=80)


def write_manifest(folder: Path, length: int, report: dict[str, Any], training: dict[str, Any]) -> None:
    folder.mkdir()
    manifest = Manifest(
        id=f"nano-{length}",
        description="made up",
        expected_length=length,
        esm2=Esm2Config(1, 32, 2),
        dnabert_s=DnabertSConfig(2, 32, 2, 48, 1024),
        head=HeadConfig(16),
        licence="MIT",
        files={role: FileEntry(role, "0" * 64, 1) for role in ROLES},
        temperature=1.25,
        training=training,
        validation=headline(report),
    )
    (folder / "manifest.json").write_text(manifest.to_json())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    out, table = folder / "out", folder / "manifest.tsv"
    out.mkdir()
    work = Workspace(data().folder, out, FINAL, tiny_recipe(), 1, torch.device("cpu"), out)
    for length in LENGTHS:
        report = report_of(length)
        (out / f"nano-{length}.json").write_text(json.dumps(report))
        training = facts(work, length, {"trial_on_dev": {"model": {"dev": 0.5 + length / 10_000}}})
        write_manifest(out / f"nano-{length}", length, report, training)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows()[0], "source_repo", "repo_licence"], delimiter="\t")
        writer.writeheader()
        for number, row in enumerate(rows()):
            repository, licence = SOURCES[number % len(SOURCES)]
            writer.writerow(row | {"source_repo": repository, "repo_licence": licence})
    return Run(out, table)


@pytest.fixture(scope="module")
def text(run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return run.card(tmp_path_factory.mktemp("docs"), "--least-chunks", "9")


def part(text: str, title: str) -> str:
    """From a second-level heading to the next."""
    return text.split(f"\n## {title}")[1].split("\n## ")[0]


def rows_below(text: str, words: str) -> list[list[str]]:
    """Cells of the first table after some words, without its head."""
    lines = text[text.index(words) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| "))
    found = []
    for line in lines[first + 2 :]:
        if not line.startswith("| "):
            break
        found.append(re.split(r" (?<!\\)\| ", line[2:-2]))
    return found


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("words", "scope"), [("Unseen genera (", "unseen_genera"), ("All validation records*", "all")]
)
def test_figures_are_those_of_the_report(run: Run, text: str, length: int, words: str, scope: str) -> None:
    report = run.report(length)
    base = report["baseline"]
    expected = [
        ("chunks", report["chunk"]),
        ("chunks: baseline", base["chunk"]),
        ("5 kb pieces", report["pieces_of_5kb"]),
        ("5 kb pieces: baseline", base["pieces_of_5kb"]),
        ("records, by mean margin", report["records"]),
        ("records, by mean margin: baseline", base["records"]),
        ("records, by verdict rule", report["records_by_verdict_rule"]),
    ]
    found = rows_below(part(text, f"nano-{length}"), words)
    assert [row[0] for row in found] == [name for name, _ in expected]
    for (_, count, viruses, genomes, auroc, interval, *shares), (_, level) in zip(
        found, expected, strict=True
    ):
        one = level[scope]
        assert [int(count), int(viruses), int(genomes)] == [
            one[k] for k in ("pieces", "of_viruses", "genomes")
        ]
        assert float(auroc) == pytest.approx(one["auroc"], abs=6e-4)
        assert [float(end) for end in interval.split(" to ")] == pytest.approx(one["interval95"], abs=6e-4)
        measured = [one[k] for k in ("accuracy", "sensitivity", "specificity", "ece")]
        assert [float(share) for share in shares] == pytest.approx(measured, abs=6e-4)


def test_the_headline_comes_first(text: str) -> None:
    section = part(text, "nano-500")
    assert section.index("Unseen genera (the headline)") < section.index("All validation records")
    assert text.index("## nano-500") < text.index("## nano-300") < text.index("## The training")


@pytest.mark.parametrize("length", LENGTHS)
def test_groups_that_are_missed_most_come_first(run: Run, text: str, length: int) -> None:
    chunk, base = (one["chunk"]["by_group"] for one in (run.report(length), run.report(length)["baseline"]))
    section = part(text, f"nano-{length}")
    found = rows_below(section, "Groups that it misses most")
    assert {row[0] for row in found} == set(chunk)
    assert "of 5 with at least 9 chunks; 0 have fewer" in section
    shares = [float(row[3]) for row in found]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    for name, count, genomes, *measured in found:
        one = chunk[name]
        assert [int(count), int(genomes)] == [one["chunks"], one["genomes"]]
        expected = [one["right"], one["auroc"], base[name]["right"], base[name]["auroc"]]
        assert [float(value) for value in measured] == pytest.approx(expected, abs=6e-4)


def test_small_groups_are_not_named_but_counted(run: Run) -> None:
    report = run.report(500)
    largest = max(one["chunks"] for one in report["chunk"]["by_group"].values())
    made = Made(*read_manifest(run.out / "nano-500"), report)
    section = "\n\n".join(bundle_section(made, (), largest))
    found = rows_below(section, "Groups that it misses most")
    assert [row[:2] for row in found] == [["bacteria (others)", str(largest)]]
    assert f"of 1 with at least {largest} chunks; 4 have fewer" in section


def test_novelty_temperature_and_chunks_without_a_frame(run: Run, text: str) -> None:
    report, section = run.report(300), part(text, "nano-300")
    found = {row[0]: row for row in rows_below(section, "By how new they are")}
    assert set(found) == set(report["chunk"]["by_novelty"])
    seen = report["chunk"]["by_novelty"]["seen_genus (virus)"]
    assert found["seen_genus (virus)"][1:4] == [str(seen["chunks"]), "1", f"{seen['right']:.3f}"]
    without = report["chunks_without_open_frame"]
    assert f"{without:,} of {without + report['chunks']:,} chunks of all validation records (" in section
    assert "The temperature is 1.25." in section


def test_what_was_run_and_how(run: Run, text: str) -> None:
    section = part(text, "The training")
    training = json.loads((run.out / "nano-300" / "manifest.json").read_text())["training"]
    assert training["command"] in section
    assert f"| nano-300 | {training['finished']} | CPU | 0.530 | `{training['key']}` |" in section
    assert "`head.optimiser.steps=4`" in section  # unlike recipe.toml
    assert "`data.seed" not in section  # as in recipe.toml
    recipe = dataclasses.asdict(tiny_recipe())
    assert f"data: seed {recipe['data']['seed']}, chunks 60, full {recipe['data']['full']}, " in section
    assert f"optimiser.lr {recipe['head']['optimiser']['lr']}, optimiser.warmup_steps 2," in section


def test_the_splits_are_counted(text: str) -> None:
    section, corpus = part(text, "The data"), data().corpus
    found = {
        row[0]: [int(cell.replace(",", "")) for cell in row[1:]]
        for row in rows_below(section, "The split is by record")
    }
    assert len(found) == 6
    for split in ("train", "dev", "validation"):
        assert sum(found[f"{split}: {label}"][0] for label in ("virus", "others")) == len(
            corpus.records_of(split)
        )
    # Three records and families; one of the genera is trained on, whatever the case of its letters.
    assert found["validation: virus"] == [3, 15_900, 3, 3, 3, 2, 0]
    assert found["validation: others"] == [3, 15_900, 2, 0, 3, 2, 0]
    assert found["dev: virus"][3] == found["dev: virus"][0] > 0  # each of a family of its own


def test_sources_are_listed_with_their_licence(text: str) -> None:
    section = part(text, "The data")
    given = rows()
    expected = []
    for name, licence, numbers in (
        ("lab/a\\|x", "none stated", (1, 2)),
        ("lab/b", "MIT", (0,)),
        ("none stated", "GPL-3.0", (3,)),
    ):
        chosen = [row for i, row in enumerate(given) if i % 4 in numbers]
        judged = sum(row["split"] == "validation" for row in chosen)
        total = sum(int(row["length"]) for row in chosen)
        expected.append([name, licence, str(len(chosen)), f"{total:,}", str(judged)])
    assert rows_below(section, "source repositories") == expected
    assert f"Of {expected[0][2]} records ({expected[0][3]} bases) it is: none stated." in section


def test_ids_are_named_by_their_digest(run: Run, text: str) -> None:
    listed = json.loads((run.out / "nano-500" / "manifest.json").read_text())["training"]["data"]
    for split in ("train", "dev", "validation"):
        assert f"* {split}: `{listed[split]['ids_sha256']}`" in text


def test_the_same_input_gives_the_same_files_and_they_are_small(run: Run, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    text = run.card(first)
    run.card(again)
    pictures = [f"{n}-{kind}.png" for n in LENGTHS for kind in ("roc", "calibration", "scores", "by_group")]
    assert sorted(path.name for path in (first / "nano").iterdir()) == sorted([*pictures, "figures.md"])
    for name in [*pictures, "figures.md"]:
        assert (first / "nano" / name).read_bytes() == (again / "nano" / name).read_bytes()
    assert re.findall(r"\]\((.*)\)", text) == pictures
    for name in pictures:
        content = (first / "nano" / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(content) < 80_000
    assert struct.unpack(">II", (first / "nano" / "500-scores.png").read_bytes()[16:24]) == (960, 660)
    assert (first / "nano" / "500-roc.png").read_bytes() != (first / "nano" / "300-roc.png").read_bytes()


def without_report(run: Run) -> None:
    (run.out / "nano-300.json").unlink()


def another_report(run: Run) -> None:
    report = run.report(300)
    report["chunk"]["all"]["auroc"] += 0.01
    (run.out / "nano-300.json").write_text(json.dumps(report))


def broken_report(run: Run) -> None:
    (run.out / "nano-300.json").write_text("{}")


def another_recipe(run: Run) -> None:
    path = run.out / "nano-300" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["training"]["recipe"]["head"]["dropout"] = 0.123
    path.write_text(json.dumps(manifest))


def change_table(before: str, after: str, run: Run) -> None:
    text = run.table.read_text()
    assert before in text
    run.table.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_report, "has no nano-300 with its report: make them with python -m training.run"),
        (another_report, "nano-300.json is not the report of the bundle beside it: remove "),
        (broken_report, "nano-300.json is not the report of the bundle beside it: remove "),
        (another_recipe, "are of different recipes or data: make them with one python -m training.run"),
        (partial(change_table, "repo_licence", "terms"), "has no column repo_licence"),
        (partial(change_table, "others05\t", "others99\t"), "does not have the bundles' records of "),
        (partial(change_table, "\t5300\t", "\t5301\t"), "not have the bundles' records of validation: give "),
    ],
)
def test_what_does_not_belong_together_ends_with_one_line(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Run], None],
    message: str,
) -> None:
    spoilt = run.copy(tmp_path)
    spoil(spoilt)
    with pytest.raises(SystemExit) as ended:
        spoilt.card(tmp_path / "docs")
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "docs").exists()


def test_without_matplotlib_it_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit):
        run.card(tmp_path / "docs")
    assert capsys.readouterr().err == "the pictures need matplotlib: pip install 'virnucpro-stream[train]'\n"
    assert not (tmp_path / "docs").exists()


def test_if_one_file_cannot_be_written_none_is(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "nano"
    (folder / "figures.md").mkdir(parents=True)
    (folder / "500-roc.png").write_bytes(b"of before")
    with pytest.raises(SystemExit):
        run.card(tmp_path, "--lengths", "500")
    assert sorted(path.name for path in folder.iterdir()) == ["500-roc.png", "figures.md"]
    assert (folder / "500-roc.png").read_bytes() == b"of before"


def test_what_could_not_be_measured_is_said_to_be_none() -> None:
    one_label = binary_metrics(np.array([1.0, -1.0]), np.array([True, True]), np.array([0, 1]))
    assert [cell(value) for value in metrics_row("x", one_label)] == ["x", "2", "2", "2", *["none"] * 6]
    assert table("a, b", [["x|y", 1234]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1,234 |"
    assert table("a, b", []) == "| a | b |\n| --- | --- |"
