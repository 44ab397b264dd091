"""The figures of cross-validation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.training_fixture import data_with_extra
from training.data.corpus import EXTRA
from training.data.folds import Folds
from training.data.make_tables import evaluated_part
from training.data.prepare_data import NOT_A_FAMILY
from training.reports.fold_metrics import MEASURES, MOST_PIECES, LeftOut, judge, spread_out
from training.reports.record_scores import read_scores, write_scores
from virnucpro_core.evaluation.calibration_fit import fit_calibration
from virnucpro_core.evaluation.metrics import auroc


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_of_a_record_at_most_twelve_chunks_are_judged_evenly_spaced(counts: list[int]) -> None:
    record = np.repeat(np.arange(len(counts)) * 3, counts)
    taken = spread_out(record)
    for number, count in enumerate(counts):
        places = np.flatnonzero(taken[record == number * 3])
        assert len(places) == min(count, MOST_PIECES)
        assert np.ptp(np.diff(places)) <= 1 if len(places) > 1 else True


def folds_and_parts(margin_of=None) -> tuple[Folds, list[LeftOut]]:  # type: ignore[no-untyped-def]
    corpus, folds = data_with_extra().corpus, Folds.read(data_with_extra().folder / "folds.tsv")
    parts = []
    for fold in (1, 2):
        table = evaluated_part(corpus, data_with_extra().tokenizer, 500, folds.judged(corpus, fold), False)
        margins = np.random.default_rng(fold).normal(size=len(table))
        if margin_of is not None:
            margins = margin_of(table.chunk_record[table.frame_chunk])
        parts.append(LeftOut(fold, table, margins))
    return folds, parts


def test_families_that_are_known_and_extra_sources_have_figures_apart() -> None:
    corpus = data_with_extra().corpus
    folds, parts = folds_and_parts()
    unclassified = int(np.flatnonzero(corpus.labels == 1)[0])
    groups = corpus.groups.astype("<U30")
    groups[unclassified] = NOT_A_FAMILY[0]
    genus = ("virus", "genus", str(corpus.genera[unclassified]))
    number = folds.of(corpus)[unclassified]
    corpus = replace(corpus, groups=groups)
    folds = Folds({**folds.fold, genus: int(number)}, {**folds.realm, genus: ""})
    found = judge(parts, corpus, folds)
    for number, part in enumerate(parts):
        record = part.table.chunk_record
        virus, own = corpus.labels[record] == 1, corpus.splits[record] != EXTRA
        margins = part.chunk_margins
        assert found["auroc"]["folds"][number] == round(auroc(margins, virus), 4)
        of_family = record != unclassified
        unseen = round(auroc(margins[of_family], virus[of_family]), 4)
        assert found["unseen_families"]["folds"][number] == unseen
        assert found["without_extra"]["folds"][number] == round(auroc(margins[own], virus[own]), 4)
    assert len({tuple(found[name]["folds"]) for name in MEASURES}) == 3


def test_shares_right_are_of_groups_viruses_and_realms() -> None:
    corpus = data_with_extra().corpus
    plants = corpus.groups == "plant"
    folds, parts = folds_and_parts(
        lambda record: np.where((corpus.labels[record] == 1) | plants[record], 1.0, -1.0)
    )
    folds = Folds(folds.fold, {key: "Someviria" if key[0] == "virus" else "" for key in folds.fold})
    found = judge(parts, corpus, folds)["right"]
    assert set(found) == {"bacteria", "plant", "protozoa", "viruses", "Someviria"}
    assert {name: one["share"] for name, one in found.items()} == {
        name: float(name != "plant") for name in found
    }
    assert found["viruses"] == found["Someviria"]
    assert found["viruses"]["records"] == 10


def test_a_fold_without_one_of_the_labels_is_named() -> None:
    corpus = data_with_extra().corpus
    folds, parts = folds_and_parts()
    viruses = np.array([i for i in folds.judged(corpus, 1) if corpus.labels[i] == 1])
    table = evaluated_part(corpus, data_with_extra().tokenizer, 500, viruses, False)
    with pytest.raises(ValueError, match="fold 1 has no open frames of viruses or none of others, for auroc"):
        judge([LeftOut(1, table, np.zeros(len(table))), parts[1]], corpus, folds)


def test_a_calibration_is_fitted_on_the_scores_that_are_written(tmp_path: Path) -> None:
    corpus = data_with_extra().corpus
    random = np.random.default_rng(7)
    _, parts = folds_and_parts(
        lambda record: random.normal(size=len(record)) + 2.0 * corpus.labels[record] - 1
    )
    write_scores(tmp_path / "scores.jsonl", parts, corpus, 500, temperature=2.0)
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    scores = read_scores(tmp_path / "scores.jsonl")
    assert scores.margins == pytest.approx(
        np.concatenate([part.chunk_margins for part in parts]) / 2, abs=1e-5
    )
    assert scores.ids.tolist() == [line["id"] for line in lines]
    assert scores.chunks.tolist() == [len(line["scores"]) for line in lines]
    assert [
        (lines[i]["scores"][n]) for i, n in zip(scores.owner, scores.number, strict=True)
    ] == scores.scores.tolist()
    found = fit_calibration(scores.labelled(500))
    assert found.about["records"] == len(lines)
    assert found.about["viruses"] == 10


def test_a_line_that_is_not_the_scores_of_a_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    for line in ('{"id": "a"}', '{"id": "a", "label": "virus", "scores": [[0.5]]}', "no JSON"):
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match=r"scores\.jsonl, line 1 is not the scores of a record"):
            read_scores(path)
