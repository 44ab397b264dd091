"""The generated part of the model card: its figures are those of cross-validation, and it is written whole or not at
all."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.training_fixture import data_with_extra, extra_rows, rows, tiny_recipe
from training.data.folds import Folds
from training.data.make_tables import evaluated_part
from training.reports.fold_metrics import MEASURES, LeftOut, judge
from training.reports.model_card import main
from training.reports.model_card_text import cell, metrics_row, table
from training.reports.record_scores import RecordScores, read_scores, write_scores
from training.runs.everything import COMMAND, calibration_of
from training.runs.export import facts
from training.runs.workspace import EVERYTHING, Workspace
from virnucpro_core.bundle.bundle import read_manifest
from virnucpro_core.bundle.manifest import (
    ROLES,
    DnabertSConfig,
    Esm2Config,
    FileEntry,
    HeadConfig,
    Manifest,
)
from virnucpro_core.evaluation.metrics import auroc, binary_metrics
from virnucpro_core.hashing import sha256_of
from virnucpro_core.scoring.verdicts import is_virus

LENGTHS = (500, 300)
SOURCES = (("lab/b", "MIT"), ("lab/a|x", "none stated"), ("lab/a|x", ""), ("", "GPL-3.0"))
"""Of the records in turn."""
EXTRA_SOURCE = ("lab/extra", "CC0")


@dataclass(frozen=True)
class Run:
    """What the last training, the cross-validation of its recipe and the preparation of its data leave."""

    folder: Path

    @property
    def bundles(self) -> Path:
        return self.folder / "everything"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def arguments(self, docs: Path) -> list[str]:
        given = {
            "--bundles": self.bundles,
            "--results": self.results,
            "--manifest": self.folder / "manifest.tsv",
            "--extra-manifest": self.folder / "extra_manifest.tsv",
            "--docs": docs,
        }
        return [str(word) for option in given.items() for word in option]

    def card(self, docs: Path, *more: str) -> str:
        """Make it; the text."""
        assert main([*self.arguments(docs), *more]) == 0
        return (docs / "nano" / "figures.md").read_text()

    def result(self, length: int) -> dict[str, Any]:
        return json.loads((self.results / f"result-{length}.json").read_text())

    def scores(self, length: int) -> RecordScores:
        return read_scores(self.results / f"scores-{length}.jsonl")

    def manifest(self, length: int) -> Manifest:
        return read_manifest(self.bundles / f"nano-{length}")[0]


def cross_validate(results: Path, length: int) -> dict[str, Any]:
    """Write what cross-validation says of a model that guesses better than by chance; the result."""
    made, draw = data_with_extra(), np.random.default_rng(length)
    folds = Folds.read(made.folder / "folds.tsv")
    parts = []
    for fold in (1, 2):
        part = evaluated_part(made.corpus, made.tokenizer, length, folds.judged(made.corpus, fold), False)
        virus = made.corpus.labels[part.chunk_record[part.frame_chunk]]
        parts.append(LeftOut(fold, part, draw.normal(size=len(part)) + 1.4 * virus - 0.7))
    result = {"length": length, **judge(parts, made.corpus, folds)}
    (results / f"result-{length}.json").write_text(json.dumps(result))
    write_scores(results / f"scores-{length}.jsonl", parts, made.corpus, length, result["temperature"])
    return result


def write_bundle(folder: Path, length: int, work: Workspace, results: Path, result: dict[str, Any]) -> None:
    """The manifest of a bundle, with what the card reads of it."""
    folder.mkdir(parents=True)
    judged = {key: result[key] for key in (*MEASURES, "right", "temperature")}
    scores = results / f"scores-{length}.jsonl"
    manifest = Manifest(
        id=f"nano-{length}",
        description="made up",
        expected_length=length,
        esm2=Esm2Config(1, 32, 2),
        dnabert_s=DnabertSConfig(2, 32, 2, 48, 1024),
        head=HeadConfig(16),
        licence="MIT",
        files={role: FileEntry(role, "0" * 64, 1) for role in ROLES},
        temperature=result["temperature"],
        training=facts(work, length, COMMAND, {"cross_validation": judged}),
        calibration=calibration_of(read_scores(scores), sha256_of(scores), length),
    )
    (folder / "manifest.json").write_text(manifest.to_json())


def write_table(path: Path, given: Sequence[dict[str, str]], sources: Sequence[tuple[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*given[0], "source_repo", "repo_licence"], delimiter="\t")
        writer.writeheader()
        for number, row in enumerate(given):
            repository, licence = sources[number % len(sources)]
            writer.writerow(row | {"source_repo": repository, "repo_licence": licence})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = Run(tmp_path_factory.mktemp("run"))
    made.results.mkdir()
    folder = data_with_extra().folder
    work = Workspace(
        folder, made.folder, EVERYTHING, tiny_recipe("data.extra_weight=0.3"), 1, torch.device("cpu"), folder
    )
    for length in LENGTHS:
        result = cross_validate(made.results, length)
        write_bundle(made.bundles / f"nano-{length}", length, work, made.results, result)
    write_table(made.folder / "manifest.tsv", rows(), SOURCES)
    write_table(made.folder / "extra_manifest.tsv", extra_rows(), [EXTRA_SOURCE])
    return made


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
def test_the_headline_is_of_the_result(run: Run, text: str, length: int) -> None:
    section, result = part(text, f"nano-{length}"), run.result(length)
    found = rows_below(section, "**AUROC of chunks**")
    assert [row[0] for row in found] == [
        "all",
        "viruses whose family is known, and others",
        "without extra sources",
    ]
    for (_, *values), measure in zip(found, MEASURES, strict=True):
        one = result[measure]
        expected = [one["mean"], one["spread"], *one["folds"]]
        assert [float(value) for value in values] == pytest.approx(expected, abs=6e-4)
    shares = rows_below(section, "**Share of these chunks that are right**")
    assert {
        name: (float(share), int(pieces), int(records)) for name, share, pieces, records, *_ in shares
    } == {
        name: (pytest.approx(one["share"], abs=6e-4), one["pieces"], one["records"])
        for name, one in result["right"].items()
    }
    assert [float(row[1]) for row in shares] == sorted(float(row[1]) for row in shares)
    own = {row[0]: row[4:] for row in shares}
    scores = run.scores(length)
    plants = (scores.groups == "plant") & ~np.char.startswith(scores.ids, "extra")
    chunks = plants[scores.owner]
    assert float(own["plant"][0]) == pytest.approx((scores.margins[chunks] < 0).mean(), abs=6e-4)
    assert int(own["plant"][1]) == chunks.sum() > 0
    assert own["protozoa"] == ["none", "0"]
    assert own["bacteria"] == own["viruses"] == ["", ""]
    assert text.index("## nano-500") < text.index("## nano-300") < text.index("## The training")


@pytest.mark.parametrize("length", LENGTHS)
def test_whole_records_are_those_of_the_scores(run: Run, text: str, length: int) -> None:
    section, scores = part(text, f"nano-{length}"), run.scores(length)
    found = {row[0]: row[1:] for row in rows_below(section, "**Chunks and whole records**")}
    unit = np.unique(scores.units, return_inverse=True)[1]
    right, margins = [], []
    for record, virus in enumerate(scores.is_virus):
        others_score, virus_score = scores.scores[scores.owner == record].max(axis=0)
        right.append(is_virus(others_score, virus_score) == virus)
        margins.append(np.log(virus_score / (1 - virus_score)) - np.log(others_score / (1 - others_score)))
    shown = found["records, by VirNucPro's rule"]
    assert [int(value) for value in shown[:3]] == [len(scores.ids), 10, len(set(unit))]
    assert float(shown[3]) == pytest.approx(auroc(np.array(margins), scores.is_virus), abs=6e-4)
    assert float(shown[5]) == pytest.approx(np.mean(right), abs=6e-4)
    mean = np.array([scores.margins[scores.owner == record].mean() for record in range(len(scores.ids))])
    expected = metrics_row("records, by the mean margin", binary_metrics(mean, scores.is_virus, unit))
    assert found["records, by the mean margin"] == [cell(value) for value in expected[1:]]
    assert int(found["chunks, all"][0].replace(",", "")) == len(scores.owner)
    viruses, others = np.mean(np.array(right)[scores.is_virus]), np.mean(np.array(right)[~scores.is_virus])
    by_length = {row[0]: row[1:] for row in rows_below(section, "**Whole records by length and rule**")}
    assert by_length["all"][:2] == ["10", str(len(scores.ids) - 10)]
    assert [float(value) for value in by_length["all"][2:4]] == pytest.approx([viruses, others], abs=6e-4)
    extra = [i for i in scores.ids.tolist() if i.startswith("extra")]
    assert by_length["all, without extra sources"][1] == str(len(scores.ids) - 10 - len(extra))
    called = re.search(
        r"of the viruses (\d+) are `Viral`, (\d+) are `Non-viral`, (\d+) are `Ambiguous`", section
    )
    assert called is not None
    assert sum(map(int, called.groups())) == 10
    assert float(by_length["all"][4]) == pytest.approx(int(called[1]) / 10, abs=6e-4)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_calibration_is_that_of_the_manifest(run: Run, text: str, length: int) -> None:
    calibration = run.manifest(length).calibration
    assert calibration is not None
    section = part(text, f"nano-{length}")
    found = rows_below(section, "**The calibrated probability by length**")
    assert [row[0] for row in found] == list(calibration.about["by_length"])
    for (_, pieces, viruses, *errors), one in zip(
        found, calibration.about["by_length"].values(), strict=True
    ):
        assert [int(pieces), int(viruses)] == [one["pieces"], one["of_viruses"]]
        assert [float(value) for value in errors] == pytest.approx(
            [one["ece"], one["ece_of_scores"]], abs=6e-4
        )
    assert f"The temperature is {run.manifest(length).temperature}." in section


def test_groups_that_are_missed_most_come_first(run: Run, text: str) -> None:
    section, scores = part(text, "nano-500"), run.scores(500)
    found = rows_below(section, "**Families and groups that are missed most**")
    shares = [float(row[3]) for row in found]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    plants = (scores.groups[scores.owner] == "plant") & ~scores.is_virus[scores.owner]
    row = next(row for row in found if row[0] == "plant (others)")
    assert int(row[1]) == plants.sum()
    assert int(row[2]) == len(np.unique(scores.owner[plants]))
    assert float(row[3]) == pytest.approx((scores.margins[plants] < 0).mean(), abs=6e-4)


def test_small_groups_are_not_named_but_counted(run: Run, tmp_path: Path) -> None:
    scores = run.scores(500)
    groups = len(np.unique(scores.groups))
    most = int(np.bincount(np.unique(scores.groups, return_inverse=True)[1][scores.owner]).max())
    section = part(run.card(tmp_path, "--lengths", "500", "--least-chunks", str(most)), "nano-500")
    found = rows_below(section, "**Families and groups that are missed most**")
    assert [row[1] for row in found] == [str(most)] * len(found)
    assert f"of {len(found)} with at least {most} chunks; {groups - len(found)} have fewer" in section


def test_what_was_run_and_how(run: Run, text: str) -> None:
    section, training = part(text, "The training"), run.manifest(300).training
    assert training["command"] in section
    splits = "train, dev, validation, extra"
    assert f"| nano-300 | {training['finished']} | CPU | {splits} | `{training['key']}` |" in section
    assert "`head.optimiser.steps=4`" in section  # unlike recipe.toml
    assert "`data.seed" not in section  # as in recipe.toml
    recipe = dataclasses.asdict(tiny_recipe())
    assert f"data: seed {recipe['data']['seed']}, chunks 60, full {recipe['data']['full']}, " in section
    assert f"optimiser.lr {recipe['head']['optimiser']['lr']}, optimiser.warmup_steps 2," in section


def test_splits_and_folds_are_counted(run: Run, text: str) -> None:
    section, corpus = part(text, "The data"), data_with_extra().corpus
    found = {
        row[0]: [int(cell.replace(",", "")) for cell in row[1:]]
        for row in rows_below(section, "trained on all splits")
    }
    for split in ("train", "dev", "validation", "extra"):
        counted = [values[0] for name, values in found.items() if name.startswith(f"{split}: ")]
        assert sum(counted) == len(corpus.records_of(split))
    assert found["validation: virus"] == [3, 15_900, 3, 3, 0]
    # Seven records of two groups and four genera; of one the genus is not known.
    assert found["extra: others"] == [7, 7 * 1600, 2, 4, 1]
    scores = run.scores(500)
    folds = rows_below(section, "The folds, by the records")
    assert [row[0] for row in folds] == ["1", "2"]
    for column, label in ((1, scores.is_virus), (3, ~scores.is_virus)):
        assert sum(int(row[column]) for row in folds) == label.sum()
        assert sum(int(row[column + 1]) for row in folds) == len(np.unique(scores.units[label]))


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
        total = sum(int(row["length"]) for row in chosen)
        expected.append([name, licence, str(len(chosen)), f"{total:,}"])
    assert rows_below(section, "The records of the manifest are from 3 source repositories") == expected
    assert f"Of {expected[0][2]} records ({expected[0][3]} bases) it is: none stated." in section
    extra = rows_below(section, "The records of the extra sources are from 1 source repositories")
    assert extra == [[*EXTRA_SOURCE, "7", "11,200"]]


def test_ids_are_named_by_their_digest(run: Run, text: str) -> None:
    listed = run.manifest(500).training["data"]
    for split in ("train", "dev", "validation", "extra"):
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


def without_result(run: Run) -> None:
    (run.results / "result-300.json").unlink()


def without_bundle(run: Run) -> None:
    shutil.rmtree(run.bundles / "nano-300")


def another_result(run: Run) -> None:
    result = run.result(300)
    result["auroc"]["mean"] += 0.01
    (run.results / "result-300.json").write_text(json.dumps(result))


def other_scores(run: Run) -> None:
    path = run.results / "scores-300.jsonl"
    path.write_text(path.read_text().replace("0.1", "0.2", 1))


def change_manifest(change: Callable[[dict[str, Any]], object], run: Run) -> None:
    path = run.bundles / "nano-300" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def change_table(before: str, after: str, run: Run, name: str = "manifest.tsv") -> None:
    path = run.folder / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_result, "result-300.json"),
        (without_bundle, "no model bundle "),
        (another_result, "result-300.json is not of the recipe of nano-300: give the results that it was "),
        (other_scores, "scores-300.jsonl is not what the calibration of nano-300 was fitted on: give "),
        (
            partial(change_manifest, lambda manifest: manifest["training"].pop("cross_validation")),
            "nano-300 was not made by python -m training.run",
        ),
        (
            partial(change_manifest, lambda manifest: manifest.pop("calibration")),
            "nano-300 was not made by python -m training.run",
        ),
        (
            partial(
                change_manifest, lambda manifest: manifest["training"]["recipe"]["head"].update(dropout=0.123)
            ),
            "nano-500 and nano-300 are of different recipes or data: make them with one python -m training.run",
        ),
        (partial(change_table, "repo_licence", "terms"), "has no column repo_licence"),
        (
            partial(change_table, "others05\t", "others99\t"),
            "manifest.tsv does not have the bundles' records of ",
        ),
        (partial(change_table, "\t5300\t", "\t5301\t"), "not have the bundles' records of validation: give "),
        (
            partial(change_table, "\t1600\t", "\t1601\t", name="extra_manifest.tsv"),
            "extra_manifest.tsv does not have the bundles' records of extra: give ",
        ),
    ],
)
def test_what_does_not_belong_together_ends_with_one_line(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Run], None],
    message: str,
) -> None:
    spoilt = Run(Path(shutil.copytree(run.folder, tmp_path / "run")))
    spoil(spoilt)
    with pytest.raises(SystemExit) as ended:
        spoilt.card(tmp_path / "docs")
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "docs").exists()


def test_without_the_table_of_the_extra_sources_it_says_which_option_is_missing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = run.arguments(tmp_path / "docs")
    place = given.index("--extra-manifest")
    with pytest.raises(SystemExit):
        main(given[:place] + given[place + 2 :])
    assert capsys.readouterr().err == (
        "the bundles are trained on extra sources: give their table by --extra-manifest\n"
    )


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
