"""A split as files for `virnucpro evaluate`."""

from __future__ import annotations

from pathlib import Path

from tests.support.training_fixture import data
from training.data.corpus import DEV, TRAIN, VALIDATION
from training.data.export_split import main
from virnucpro_core.evaluation.labels import read_labels
from virnucpro_core.sequence.fasta import read_sequences


def test_the_records_of_unseen_genera_with_their_labels(tmp_path: Path, capsys) -> None:
    corpus = data().corpus
    corpus.save(tmp_path / "genomes.npz")
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    unseen = corpus.unseen(VALIDATION, TRAIN, DEV)
    expected = {str(corpus.ids[i]): i for i in corpus.records_of(VALIDATION) if unseen[i]}
    assert 0 < len(expected) < len(corpus.records_of(VALIDATION))
    found = {name: letters for name, _, letters in read_sequences(str(tmp_path / "out/validation.fasta"))}
    assert found == {name: corpus.sequence(int(i)) for name, i in expected.items()}
    labels = read_labels(tmp_path / "out/validation.tsv")
    assert {name: label.is_virus for name, label in labels.items()} == {
        name: bool(corpus.labels[i]) for name, i in expected.items()
    }
    assert f"wrote {len(expected)} records of validation" in capsys.readouterr().out
