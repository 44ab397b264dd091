"""The bundled sample is what consumer/data/README.md says."""

from __future__ import annotations

import sys
from importlib.resources import files

from consumer.cli.demo.sample import sample_fasta, sample_truth
from virnucpro_core.sequence.fasta import read_sequences
from virnucpro_core.sequence.validation import validate


def records() -> list[tuple[str, str | None, str]]:
    with sample_fasta() as path:
        return list(read_sequences(str(path)))


def test_every_record_has_its_truth_in_the_same_order():
    truth = sample_truth()
    assert [record_id for record_id, _, _ in records()] == list(truth)
    assert [description for _, description, _ in records()] == [known.organism for known in truth.values()]
    assert sorted(known.label for known in truth.values()) == ["others"] * 20 + ["virus"] * 20


def test_every_record_can_be_scored():
    for record_id, _, sequence in records():
        validate(record_id, sequence, sys.maxsize)


def test_size_and_odd_records():
    lengths = [len(sequence) for _, _, sequence in records()]
    assert 60_000 <= sum(lengths) <= 100_000
    assert min(lengths) >= 300
    assert max(lengths) <= 6000
    assert any(sequence.islower() for _, _, sequence in records())
    assert any("N" in sequence for _, _, sequence in records())


def test_a_region_is_as_long_as_its_coordinates_say():
    regions = [(record_id, sequence) for record_id, _, sequence in records() if ":" in record_id]
    assert len(regions) == 20
    for record_id, sequence in regions:
        first, last = record_id.split(":")[1].split("-")
        assert len(sequence) == int(last) - int(first) + 1


def test_the_readme_names_every_accession():
    readme = (files("consumer") / "data" / "README.md").read_text(encoding="utf-8")
    assert not [record_id for record_id in sample_truth() if record_id not in readme]
