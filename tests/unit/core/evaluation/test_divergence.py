"""The measures of divergence, against values worked out by hand."""

from __future__ import annotations

import csv
from importlib.resources import files

import numpy as np
import pytest

from tests.support.small_tokenizer import small_tokenizer
from virnucpro_core.evaluation.divergence import Divergence, compare, frames_of_proteins, published_proteins
from virnucpro_core.sequence.frames import open_frames


def arrays(*rows):
    return np.array(rows, dtype=np.float32)


FEATURES = arrays([1, 0, 0, 0], [0, 2, 0, 0])
SCORES = arrays([0.25, 0.75], [0.9, 0.1])


def test_identical_predictions_do_not_diverge():
    found = compare(FEATURES, SCORES, FEATURES.copy(), SCORES.copy())
    assert found == Divergence(2, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0)
    assert found.advice == "accept"


def test_each_measure_by_hand():
    other = arrays([1, 1, 0, 0], [0, 2, 0.005, 0])
    found = compare(FEATURES, SCORES, other, arrays([0.6, 0.4], [0.9, 0.1]))
    assert found.label_agreement == 0.5
    assert found.score_difference == pytest.approx(0.35)
    assert found.cosine_min == pytest.approx(2**-0.5)
    assert found.cosine_mean == pytest.approx((2**-0.5 + 1) / 2, abs=1e-5)
    assert found.mean_absolute_difference == pytest.approx(1.005 / 8)
    assert (found.within_1e3, found.within_1e2) == (6 / 8, 7 / 8)
    assert found.advice == "use v1"


def test_the_correlation_is_of_the_winning_scores():
    a, b = arrays([0.4, 0.6], [0.3, 0.7], [0.1, 0.9]), arrays([0.45, 0.55], [0.2, 0.8], [0.15, 0.85])
    expected = np.corrcoef([0.6, 0.7, 0.9], [0.55, 0.8, 0.85])[0, 1]
    features = np.ones((3, 4), dtype=np.float32)
    assert compare(features, a, features, b).confidence_correlation == pytest.approx(expected)


@pytest.mark.parametrize(
    ("agreement", "advice"),
    [(1.0, "accept"), (0.991, "accept"), (0.99, "validate"), (0.95, "validate"), (0.94, "use v1")],
)
def test_the_rule_of_the_report(agreement, advice):
    assert Divergence(100, agreement, 1, 0, 1, 1, 0, 1, 1).advice == advice


def test_nothing_or_unlike_things_cannot_be_compared():
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(FEATURES[:0], SCORES[:0], FEATURES[:0], SCORES[:0])
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(FEATURES, SCORES, FEATURES[:1], SCORES)


def test_the_published_proteins_have_their_published_lengths():
    text = (files("virnucpro_core") / "data" / "reference" / "divergence_proteins.tsv").read_text()
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    proteins = published_proteins()
    assert len(proteins) == 18
    assert {name: len(protein) for name, protein in proteins.items()} == {
        r["id"]: int(r["length"]) for r in rows
    }


def test_made_up_nucleotides_translate_back_to_their_protein():
    from virnucpro_core.evaluation.divergence import _CODONS

    for residue, codon in _CODONS.items():
        assert open_frames(codon)[0].protein == residue
    frames = frames_of_proteins({"a": "MKV", "b": "ACDEFGHIKLMNPQRSTVWY"}, small_tokenizer())
    assert [frame.tokens for frame in frames] == [5, 22]
